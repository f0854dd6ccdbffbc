"""No page runs out of its paper or its screen: looked at in a real browser, with names as long as they may be."""

import secrets
from dataclasses import replace
from datetime import timedelta

import pytest
from pages_house import Visitor, audited, settle

from auditor.api.web.rights import PAGE_RIGHTS
from auditor.contracts.access import Access
from auditor.contracts.people import Role
from auditor.contracts.policy import Verdict
from auditor.report.render_html import render_html
from auditor.report.render_repair_html import render_repair_html
from auditor.service.accounts import StoredWaiver
from auditor.service.records import LOCAL_TEAM
from auditor.testing.reports import (
    measured,
    sample_attacks,
    sample_gallery,
    sample_outcome,
    sample_repair_report,
    sample_report,
    sample_target,
)

pytestmark = pytest.mark.e2e

PAPER = 794 - 2 * 45
"""Pixels between the margins of an A4 sheet, at 96 to the inch."""
TELEPHONE = 400
NOT_PAGES = {"/jobs/{job_id}/progress", "/setup", "/sign-in", "/sign-in/openid/done"}
GETS = [
    path
    for method, path in sorted(PAGE_RIGHTS)
    if method == "GET" and not path.startswith("/static") and path not in NOT_PAGES
]
QUERIES = {
    "/compare": "?before={report_id}&after={report_id}",
    "/compare/pictures": "?before={report_id}&after={report_id}",
}
OVERFLOWING = """() => {
  const width = document.documentElement.clientWidth, out = [];
  const scrolls = (node) => {
    for (let up = node.parentElement; up; up = up.parentElement)
      if (['auto', 'scroll', 'hidden', 'clip'].includes(getComputedStyle(up).overflowX)) return true;
    return false;
  };
  for (const node of document.body.querySelectorAll('*')) {
    const box = node.getBoundingClientRect();
    const seen = box.width > 0 && box.height > 0 && getComputedStyle(node).visibility !== 'hidden';
    if (seen && box.right > width + 1 && !scrolls(node))
      out.push(`${node.tagName}.${node.getAttribute('class')} ends at ${Math.round(box.right)} of ${width}: `
        + node.textContent.trim().slice(0, 60));
  }
  const whole = document.documentElement.scrollWidth;
  if (whole > width) out.push(`the page is ${whole} wide`);
  return out;
}"""


def long_report():
    """An audit whose names are as long as they may be, and none of which may be broken at a space."""
    name = "x" * 100
    attacks = (
        *sample_attacks((0.38, 0.31, 0.46)),
        sample_outcome("an-attack-with-a-label-as-long-as-labels-are-allowed-to-be-and-no-longer", attack="ppa"),
        _split(),
    )
    rows = tuple(row.model_copy(update={"name": f"{row.label:03d}{'y' * 60}"}) for row in attacks[0].per_class)
    attacks = tuple(attack.model_copy(update={"per_class": rows, "named_classes": (3, 4)}) for attack in attacks)
    return sample_report(
        Verdict.FAIL,
        attacks=attacks,
        target=sample_target(name=name, split={"layer": f"encoder.{'z' * 80}", "shape": (32, 8, 8)}),
    )


def _split():
    given = sample_outcome("rmle", access=Access.SPLIT, prior="none")
    values = {"psnr": 27.5, "control_psnr": 14.25, "mean_image_psnr": 16.5, "ssim": 0.91, "perceptual": 0.12}
    scores = tuple(measured(metric, value).model_copy(update={"unit": "dB"}) for metric, value in values.items())
    return given.model_copy(update={"scores": (*given.scores, *scores)})


@pytest.fixture(scope="module")
def window(house, chromium):
    """A window of an admin who is signed in."""
    context = chromium.new_context(base_url=house.url)
    with Visitor(house, Role.ADMIN) as visitor:
        context.add_cookies(
            [{"name": "auditor_session", "value": visitor.client.cookies["auditor_session"], "url": house.url}]
        )
    yield context.new_page()
    context.close()
    settle(house)


@pytest.fixture(scope="module")
def ids(house):
    """The second of two audits of a model, which is waived and the baseline; nothing can be broken at a space."""
    report, now = long_report(), house.services.clock.now()
    name = report.target.name
    audits = [audited(house, report, sample_gallery()) for _ in range(2)]
    with house.services.database() as tx:
        for ids in audits:
            tx.reports.add(replace(tx.reports.find(ids["job_id"]), name=name))
        tx.baselines.change(tx.baselines.find(name=ids["model"]).id, name=name)
        given = ("attack:ppa", name, "w" * 1500, "a" * 100, now + timedelta(days=3))
        tx.waivers.add(StoredWaiver(secrets.token_hex(16), now, LOCAL_TEAM, *given))
    return ids | {"model": name}


FILES = {
    "audit": lambda: render_html(long_report(), sample_gallery()),
    "inconclusive": lambda: render_html(sample_report(Verdict.INCONCLUSIVE)),
    "repair": lambda: render_repair_html(sample_repair_report()),
    "no repair": lambda: render_repair_html(sample_repair_report(chosen=None)),
}


def check_fit(page, width, media):
    page.set_viewport_size({"width": width, "height": 1000})
    page.emulate_media(media=media)
    page.evaluate("() => document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert page.evaluate(OVERFLOWING) == []


SIZES = pytest.mark.parametrize(("width", "media"), [(PAPER, "print"), (TELEPHONE, "screen"), (1280, "screen")])


@SIZES
@pytest.mark.parametrize("path", GETS)
def test_a_page_fits(window, ids, path, width, media):
    answer = window.goto((path + QUERIES.get(path, "")).format(**ids))
    assert answer.status == 200
    check_fit(window, width, media)


@SIZES
@pytest.mark.parametrize("path", ["/sign-in", "/nowhere"])
def test_a_page_of_somebody_who_is_not_signed_in_fits(house, chromium, path, width, media):
    context = chromium.new_context(base_url=house.url)
    page = context.new_page()
    page.goto(path)
    check_fit(page, width, media)
    context.close()


@SIZES
@pytest.mark.parametrize("name", FILES)
def test_a_report_in_a_file_fits(chromium, tmp_path, name, width, media):
    path = tmp_path / f"{secrets.token_hex(4)}.html"
    path.write_text(FILES[name]())
    page = chromium.new_page()
    page.goto(path.as_uri())
    check_fit(page, width, media)
    page.close()
