"""A reviewer's whole path in a real browser, against an API process of its own."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from auditor.contracts.report import AuditReport
from auditor.report.wording import headline, meaning
from auditor.testing.handlers import hold, let_go

pytestmark = pytest.mark.e2e

CHROMIUM = os.environ.get("AUDITOR_TEST_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
PASSWORD = "correct horse battery"  # noqa: S105
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-quic",
]


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


@pytest.fixture(scope="module")
def chromium():
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: install it, or name it in AUDITOR_TEST_CHROMIUM")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


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


def command(home, *words):
    """The command line on the same installation."""
    env = os.environ | {"AUDITOR_HOME": str(home)}
    return subprocess.run(  # noqa: S603
        [sys.executable, "-c", "from auditor.cli.main import main; main()", *words],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_reviewers_path(browser, home, tmp_path):
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
    same_verdict_everywhere(page, home, job, report, tmp_path)

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

    page.goto(f"/audits/{job}")
    page.get_by_label("Finding", exact=True).select_option("attack:ppa")
    page.get_by_label("Reason", exact=True).fill("Retrained next week, see the plan.")
    page.get_by_role("button", name="Waive").click()
    expect(page.get_by_role("status")).to_have_text("The finding is waived until its date.")
    gate = page.get_by_role("region", name="Waivers and baseline")
    expect(gate.get_by_role("listitem").filter(has_text="Retrained next week")).to_contain_text("attack:ppa")
    page.get_by_role("button", name="Approve as baseline").click()
    expect(page.get_by_text("This audit was approved by ann")).to_be_visible()

    page.get_by_role("radio", name=re.compile("^tl-dmi")).check()
    page.get_by_label("Accuracy it may cost").fill("2.5")
    page.get_by_role("button", name="Request the repair").click()
    page.get_by_role("link", name="Read the report").click(timeout=120_000)
    expect(page.get_by_role("heading", level=1)).to_have_text("Before and after the repair")
    expect(page.get_by_label("Result", exact=True)).to_contain_text("FAIL → INCONCLUSIVE")
    page.get_by_role("link", name="Compare class by class").click()
    expect(page.get_by_role("heading", name="Class by class")).to_be_visible()
    expect(page.get_by_role("table").filter(has_text="Before minus after").first).to_be_visible()
    page.goto("/models/badge-slow")
    expect(page.get_by_role("row", name=re.compile("Fail.*baseline|baseline.*Fail"))).to_be_visible()
    expect(page.locator("svg.chart")).to_be_visible()


def same_verdict_everywhere(page, home, job, report, folder):
    """Page, JSON that the page gives to download, and the command line on both."""
    with page.expect_download() as started:
        page.get_by_role("link", name="json", exact=True).click()
    path = folder / "report.json"
    started.value.save_as(path)
    assert json.loads(path.read_text())["verdict"]["verdict"] == report.verdict.verdict == "fail"
    gate = command(home, "gate", str(path))
    assert gate.returncode == 1, gate.stderr
    assert "FAIL" in gate.stdout + gate.stderr
    shown = command(home, "report", job, "-f", "markdown")
    assert headline(report.verdict) in shown.stdout, shown.stderr


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
