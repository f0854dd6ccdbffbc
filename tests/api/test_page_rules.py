"""What every page keeps to: the content policy, forms, labels, tables, and names that strangers chose."""

import secrets
from dataclasses import replace

import pytest
from pages_house import HOSTILE, Visitor, audited, parsed, settle, told

from auditor.api.web.rights import PAGE_RIGHTS
from auditor.contracts.people import Role
from auditor.contracts.policy import Verdict
from auditor.contracts.report import Gallery, GalleryRow
from auditor.testing.reports import sample_gallery, sample_report, sample_target

GETS = [path for method, path in sorted(PAGE_RIGHTS) if method == "GET" and not path.startswith("/static")]
QUERIES = {"/compare/pictures": "?before={report_id}&after={report_id}"}


@pytest.fixture(scope="module", autouse=True)
def _settled(house):
    yield
    settle(house)


@pytest.fixture
def admin(house):
    with Visitor(house, Role.ADMIN) as visitor:
        yield visitor


def check_document(answer):
    """The rules that every page keeps to."""
    root = parsed(answer.text)
    policy = answer.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "no-store" in answer.headers["cache-control"]
    for element in root.all():
        assert element.tag != "style"
        assert not [name for name in element.attributes if name == "style" or name.startswith("on")], element.tag
        for name in ("src", "href", "action", "hx-get"):
            value = element.get(name)
            assert value is None or value.startswith(("/", "#", "data:,", "data:image/png")), value
            assert value is None or not value.startswith("//")
    for script in root.all("script"):
        assert script.get("src", "").startswith("/static/")
        assert not script.text
    (html,) = root.all("html")
    assert html.get("lang") == "en"
    assert len(root.all("main")) == len(root.all("h1")) == 1
    assert root.all("main")[0].get("id") == "main"
    assert [link for link in root.all("a") if link.get("class") == "skip" and link.get("href") == "#main"]
    ids = [element.get("id") for element in root.all() if element.get("id")]
    assert len(ids) == len(set(ids))
    _check_forms(root, ids)
    for table in root.all("table"):
        assert table.all("caption"), table.text[:200]
        assert all(cell.get("scope") for cell in table.all("th"))
    for chart in root.all("svg"):
        assert chart.get("role") != "img" or (chart.all("title") and chart.all("desc"))
    for image in root.all("img"):
        assert image.get("alt")
    return root


def _check_forms(root, ids):
    labelled = {label.get("for") for label in root.all("label")}
    assert {name for name in labelled if name} <= set(ids)
    for form in root.all("form"):
        if form.get("method") == "post":
            first = form.all("input")[0]
            assert (first.get("name"), first.get("type")) == ("csrf", "hidden"), "files come after the token"
    for control in root.all("input", "select", "textarea"):
        hidden = control.get("type") == "hidden" or "hidden" in control.attributes
        assert hidden or control.get("id") in labelled or control.within("label"), control.attributes


@pytest.mark.parametrize("path", GETS)
def test_every_page_keeps_to_the_rules(house, admin, path):
    ids = audited(house, sample_report(Verdict.FAIL), sample_gallery())
    answer = admin.get((path + QUERIES.get(path, "")).format(**ids))
    if path in ("/setup", "/sign-in"):
        assert answer.status_code == 303
        return
    if path == "/sign-in/openid/done":
        assert answer.status_code == 404  # there is no provider
        check_document(answer)
        return
    if path == "/jobs/{job_id}/progress":
        assert answer.status_code == 200
        assert "<style" not in answer.text
        assert "unsafe" not in answer.headers["content-security-policy"]
        return
    assert answer.status_code == 200, answer.text[-1500:]
    check_document(answer)


def test_pages_for_those_who_are_not_signed_in_keep_to_the_rules(house):
    with Visitor(house) as visitor:
        check_document(visitor.get("/sign-in"))
        check_document(visitor.get("/setup"))
        answer = visitor.get("/nowhere")
        assert answer.status_code == 404
        check_document(answer)
        assert visitor.get("/api/v1/nowhere").headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "address",
    [
        "/audits/{report_id}",
        "/audits/{report_id}/pictures",
        "/compare?before={report_id}&after={report_id}",
        "/compare/pictures?before={report_id}&after={report_id}",
        "/jobs/{job_id}",
    ],
)
def test_names_of_strangers_are_text(house, admin, address):
    report = sample_report(Verdict.FAIL, target=sample_target(name=HOSTILE))
    attack = report.attacks[0]
    rows = tuple(row.model_copy(update={"name": HOSTILE}) for row in attack.per_class)
    hostile = attack.model_copy(update={"per_class": rows, "notes": (HOSTILE,)})
    report = report.model_copy(update={"attacks": (hostile, *report.attacks[1:]), "limitations": (HOSTILE,)})
    png = b"\x89PNG\r\n\x1a\nno picture"
    row = GalleryRow(
        label=0, name=HOSTILE, attack=HOSTILE, reconstructions_png=(png,), nearest_public_png=None, accepted=(True,)
    )
    ids = audited(house, report, Gallery(rows=(row,)))
    with house.services.database() as tx:
        job = tx.jobs.get(ids["job_id"])
        other = replace(job, id=secrets.token_hex(16), fingerprint=secrets.token_hex(32), name=HOSTILE)
        tx.jobs.add(other)
    answer = admin.get(address.format(report_id=ids["report_id"], job_id=other.id))
    root = check_document(answer)
    assert HOSTILE in root.text
    assert "alert(1)</script>" not in answer.text.replace("&lt;script&gt;alert(1)&lt;/script&gt;", "")


def test_a_part_of_a_page_whose_session_is_over_loads_the_whole_page(house):
    with Visitor(house) as visitor:
        answer = visitor.get("/jobs/abcd/progress", headers={"HX-Request": "true"})
    assert (answer.status_code, answer.headers["hx-refresh"], answer.text) == (200, "true", "")


def test_forms_that_anybody_may_send_take_no_files(house):
    with Visitor(house) as visitor:
        fields = visitor.page("/sign-in").all("input")
        csrf = next(field.get("value") for field in fields if field.get("name") == "csrf")
        answer = visitor.post("/sign-in", {"csrf": csrf}, files={"file": ("x", b"x")})
    assert "larger than 0 bytes" in told(answer, 413).text
