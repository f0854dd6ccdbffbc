"""A reviewer's whole path in a real browser, against an API process of its own."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET

import pytest

from auditor.contracts.report import AuditReport
from auditor.report.wording import headline, meaning
from auditor.testing.handlers import hold, let_go

pytestmark = pytest.mark.e2e

PASSWORD = "correct horse battery"  # noqa: S105


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def address(home):
    """Of an API process."""
    script = Path(__file__).parent / "pages_server.py"
    words = [sys.executable, str(script), str(home), PASSWORD]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)  # noqa: S603
    try:
        yield process.stdout.readline().strip()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        process.stdout.close()


@pytest.fixture
def browser(chromium, address):
    """A window, which must not complain: of scripts and styles that the policy forbids, of hosts that are not ours."""
    context = chromium.new_context(base_url=address, viewport={"width": 1200, "height": 900})
    page, complaints = context.new_page(), []
    page.on("console", lambda line: complaints.append(line.text) if line.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda sent: complaints.append(sent.url) if not _own(sent.url, address) else None)
    yield page
    context.close()
    assert [text for text in complaints if "status of 422" not in text] == []  # a form that came back


def _own(url, address):
    return url.startswith((address, "data:"))


def sign_in(page):
    page.goto("/sign-in")
    page.get_by_label("Name").fill("ann")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/")


def command(home, *words, **environment):
    """The command line in a home of its own."""
    env = os.environ | {"AUDITOR_HOME": str(home)} | environment
    return subprocess.run(  # noqa: S603
        [sys.executable, "-c", "from auditor.cli.main import main; main()", *words],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_reviewers_path(browser, home, address, tmp_path):
    from playwright.sync_api import expect

    page = browser
    model = tmp_path / "badge.onnx"
    model.write_bytes(b"weights")
    sign_in(page)

    page.get_by_role("link", name="Submit", exact=True).click()
    page.get_by_label("Model file").set_input_files(model)
    page.locator("#manifest").fill("model:\n  nam: badge-slow\n")
    page.get_by_role("button", name="Check and submit").click()
    expect(page.get_by_role("alert")).to_contain_text("did you mean 'name'?")
    expect(page.get_by_text("✓ Kept: badge.onnx")).to_be_visible()
    page.locator("#manifest").fill("model:\n  name: badge-slow\n")
    page.get_by_role("button", name="Check and submit").click()

    page.wait_for_url("**/jobs/**")
    job = urlsplit(page.url).path.rpartition("/")[2]
    running = page.get_by_role("row", name=re.compile("ppa.0.*running"))
    expect(running).to_be_visible(timeout=60_000)
    assert not re.search(r"\b(FAIL|Fail|PASS|Pass)\b", page.locator("body").inner_text())
    let_go(home)
    page.get_by_role("link", name="Read the report").click(timeout=60_000)  # comes without a reload by hand

    page.wait_for_url("**/audits/**")
    answer = page.request.get(f"/api/v1/reports/{job}?format=json")
    report = AuditReport.model_validate_json(answer.body())
    banner = page.get_by_label("Verdict", exact=True)
    expect(banner).to_contain_text(headline(report.verdict))
    expect(banner).to_contain_text(meaning(report))
    failing = ["attack:mirror-b", "attack:ppa", "attack:ppa-averaged"]
    told_everywhere(page, address, job, tmp_path, Told("FAIL", "fail", failing))

    page.get_by_role("link", name="Open the pictures").click()
    figure = page.locator("#p-0-reconstruction-1")
    expect(figure.locator("img.coarse")).to_be_visible()
    figure.get_by_role("link", name="Show").click()
    picture = figure.locator("img.clear")
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 32
    expect(page.locator("img.clear")).to_have_count(1)
    page.get_by_role("link", name="Audit log").click()
    expect(page.get_by_role("row", name=re.compile("picture.view.*0-reconstruction-1"))).to_have_count(1)

    waive(page, job, "attack:ppa")
    gate = page.get_by_role("region", name="Waivers and baseline")
    expect(gate.get_by_role("listitem").filter(has_text="Retrained next week")).to_contain_text("attack:ppa")
    rest = [key for key in failing if key != "attack:ppa"]
    told_everywhere(page, address, job, tmp_path, Told("FAIL", "fail", rest))
    page.get_by_role("button", name="Approve as baseline").click()
    expect(page.get_by_text("This audit was approved by ann")).to_be_visible()
    known = Told("PASS WITH WAIVERS AND AGAINST THE BASELINE", "pass", [], against=True)
    told_everywhere(page, address, job, tmp_path, known)
    for finding in rest:
        waive(page, job, finding)
    told_everywhere(page, address, job, tmp_path, Told("PASS WITH WAIVERS", "pass", []))

    page.get_by_role("radio", name=re.compile("^tl-dmi")).check()
    page.get_by_label("Accuracy it may cost").fill("2.5")
    page.get_by_role("button", name="Request the repair").click()
    page.get_by_role("link", name="Read the report").click(timeout=120_000)
    expect(page.get_by_role("heading", level=1)).to_have_text("Before and after the repair")
    expect(page.get_by_label("Result", exact=True)).to_contain_text("FAIL → INCONCLUSIVE")
    look_at_both_sides(page)
    page.get_by_role("link", name="Compare class by class").click()
    expect(page.get_by_role("heading", name="Class by class")).to_be_visible()
    expect(page.get_by_role("table").filter(has_text="Before minus after").first).to_be_visible()
    page.goto("/models/badge-slow")
    expect(page.get_by_role("row", name=re.compile("Fail.*baseline|baseline.*Fail"))).to_be_visible()
    expect(page.locator("svg.chart")).to_be_visible()


def look_at_both_sides(page):
    """Before and after of one class, on the page of the repair, each in its place and written down."""
    from playwright.sync_api import expect

    repair = page.url
    pair = page.get_by_role("region", name=re.compile("person-000"))
    expect(pair.locator("img.coarse")).to_have_count(12)
    for side in ("before", "after"):
        figure = pair.locator(f"#p-{side}-0-reconstruction-0")
        figure.get_by_role("link", name="Show").click()
        assert figure.locator("img.clear").evaluate("image => image.decode().then(() => image.naturalWidth)") == 32
    expect(page.locator("img.clear")).to_have_count(2)
    assert page.url == repair
    page.get_by_role("link", name="Audit log").click()
    looks = page.get_by_role("row", name=re.compile("picture.view.*0-reconstruction-0")).all_inner_texts()
    assert len({re.search(r"[0-9a-f]{12,64}", look)[0] for look in looks}) == len(looks) == 2
    page.goto(repair)


def waive(page, job, finding):
    from playwright.sync_api import expect

    page.goto(f"/audits/{job}")
    page.get_by_label("Finding", exact=True).select_option(finding)
    page.get_by_label("Reason", exact=True).fill("Retrained next week, see the plan.")
    page.get_by_role("button", name="Waive", exact=True).click()
    expect(page.get_by_role("status")).to_have_text("The finding is waived until its date.")


@dataclass(frozen=True)
class Told:
    """What every door has to say of an audit.

    Attributes:
        words: in the headline.
        verdict: the gate's.
        failing: keys of the findings that fail it.
        against: decided against the approved baseline.
    """

    words: str
    verdict: str
    failing: list
    against: bool = False


def told_everywhere(page, address, job, folder, told):
    """Page, downloads of the page, API, and the command line through the server say the same."""
    page.goto(f"/audits/{job}{'?baseline=approved' if told.against else ''}")
    headline = page.get_by_label("Verdict", exact=True).locator(".word").inner_text()
    assert headline.split(maxsplit=1)[1].rpartition(" · ")[0] == told.words
    lines = page.get_by_role("region", name="Waivers and baseline").get_by_role("listitem").all_inner_texts()
    if lines:
        assert [key for key in told.failing if any(line.startswith(f"fails: {key} ") for line in lines)] == told.failing
        assert sum(line.startswith("fails: ") for line in lines) == len(told.failing)
    with page.expect_download() as started:
        page.get_by_role("link", name="sarif", exact=True).click()
    started.value.save_as(folder / "downloaded.sarif")
    assert read_sarif((folder / "downloaded.sarif").read_text()) == (told.verdict, told.failing)
    query = {"baseline": "approved"} if told.against else {}
    for fmt, read in READERS.items():
        answer = page.request.get(f"/api/v1/reports/{job}", params={"format": fmt} | query)
        assert read(answer.text()) == (told.verdict, told.failing), fmt
    said_by_commands(page, address, job, folder, told)


def said_by_commands(page, address, job, folder, told):
    """`gate` and `report` through the server, with files in every format and the step's summary."""
    flags = ("--baseline", "approved") if told.against else ()
    summary = folder / "summary.md"
    summary.unlink(missing_ok=True)
    there = {"AUDITOR_SERVER_URL": address, "AUDITOR_TOKEN": token_of(page), "GITHUB_STEP_SUMMARY": str(summary)}
    files = [part for fmt in READERS for part in ("-o", f"{fmt}={folder / f'written.{fmt}'}")]
    gate = command(folder / "laptop", "gate", job, "-f", "json", *flags, *files, **there)
    answer = json.loads(gate.stdout)
    assert (gate.returncode, answer["verdict"]) == ({"pass": 0, "fail": 1}[told.verdict], told.verdict), gate.stderr
    assert failing_in(answer["gate"]) == told.failing
    for fmt, read in READERS.items():
        assert read((folder / f"written.{fmt}").read_text()) == (told.verdict, told.failing), fmt
    shown = command(folder / "laptop", "report", job, "-f", "sarif", *flags, **there)
    assert read_sarif(shown.stdout) == (told.verdict, told.failing), shown.stderr
    assert re.match(rf"## \W {told.words} · ", summary.read_text()), summary.read_text()[:200]


def token_of(page):
    """For the command line, made by the API in the session of the page."""
    csrf = page.request.get("/api/v1/session").json()["csrf_token"]
    body = {"name": "gate", "scopes": ["read"]}
    answer = page.request.post("/api/v1/tokens", data=body, headers={"X-CSRF-Token": csrf})
    assert answer.ok, answer.text()
    return answer.json()["secret"]


def failing_in(gate):
    return sorted(finding["key"] for finding in gate["findings"] if finding["state"] == "failing")


def read_json(text):
    decision = AuditReport.model_validate_json(text).decision
    return str(decision.verdict), failing_in(decision.model_dump(mode="json"))


def read_sarif(text):
    (run,) = json.loads(text)["runs"]
    leaks = [result["properties"] for result in run["results"] if result["ruleId"] == "PMI001"]
    failing = sorted(f"attack:{leak['subject']}" for leak in leaks if leak.get("state") == "failing")
    assert run["properties"]["failing"] == len(failing)
    return run["properties"]["verdict"], failing


def read_junit(text):
    (suite,) = ET.fromstring(text).iter("testsuite")  # noqa: S314 - our own
    cases = {case.get("name"): case.find("failure") is not None for case in suite.iter("testcase")}
    verdict = {item.get("name"): item.get("value") for item in suite.iter("property")}["verdict"]
    assert cases.pop("verdict") == (verdict == "fail")
    return verdict, sorted(f"attack:{name}" for name, fails in cases.items() if fails)


def read_gitlab(text):
    leaks = [entry for entry in json.loads(text) if entry["check_name"].startswith("PMI001")]
    keys = [re.search(r" fails: (attack:\S+) ", entry["description"]) for entry in leaks if entry["severity"] != "info"]
    failing = sorted(key[1] for key in keys if key)
    return ("fail" if failing else "pass"), failing


READERS = {"json": read_json, "sarif": read_sarif, "junit": read_junit, "gitlab": read_gitlab}
"""Verdict, and what fails, of each machine format."""


def test_the_pages_work_with_the_keyboard_and_on_a_telephone(browser):
    page = browser
    page.set_viewport_size({"width": 360, "height": 740})
    sign_in(page)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.url.endswith("#main")
    for place in ("/", "/submit", "/models", "/compare", "/data-sets", "/policies", "/account", "/admin", "/audit-log"):
        page.goto(place)
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), place
    for link in page.get_by_role("navigation", name="Site").get_by_role("link").all():
        link.focus()
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_the_focus_ring_is_around_one_field_alone(chromium, address):
    context = chromium.new_context(base_url=address)
    page = context.new_page()
    page.goto("/sign-in")
    page.get_by_label("Name").focus()
    ringed = "[...document.querySelectorAll('*')].filter((e) => getComputedStyle(e).outlineStyle != 'none')"
    assert page.evaluate(f"{ringed}.map((e) => e.id)") == [page.get_by_label("Name").get_attribute("id")]
    context.close()


def test_a_job_is_followed_without_javascript(chromium, address, home, tmp_path):
    from playwright.sync_api import expect

    context = chromium.new_context(base_url=address, java_script_enabled=False)
    page = context.new_page()
    sign_in(page)
    page.goto("/submit")
    model = tmp_path / "plain.onnx"
    model.write_bytes(b"other weights")
    hold(home)
    page.get_by_label("Model file").set_input_files(model)
    page.locator("#manifest").fill("model:\n  name: plain-slow\n")
    page.get_by_role("button", name="Check and submit").click()
    expect(page.get_by_role("row", name=re.compile("ppa.0.*running"))).to_be_visible(timeout=60_000)
    let_go(home)
    expect(page.get_by_role("link", name="Read the report")).to_be_visible(timeout=60_000)
    page.get_by_role("link", name="Read the report").click()
    expect(page.get_by_label("Verdict", exact=True)).to_contain_text("FAIL")
    context.close()
