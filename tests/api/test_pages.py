"""What every page keeps to, and what people do on them without JavaScript."""

import re
import secrets
from dataclasses import replace
from datetime import timedelta
from urllib.parse import urlsplit

import pytest
from api_house import PASSWORD, good
from api_specimen import specimen
from pages_house import HOSTILE, Visitor, audited, parsed, settle, told

from auditor.contracts.people import Role
from auditor.contracts.policy import Verdict
from auditor.report.wording import headline, meaning
from auditor.service.accounts import StoredWaiver
from auditor.service.records import LOCAL_TEAM
from auditor.testing.handlers import hold, let_go, wait_for
from auditor.testing.reports import sample_gallery, sample_report

MODEL = {"model_file": ("m.onnx", b"weights")}


@pytest.fixture(scope="module", autouse=True)
def _settled(house):
    yield
    settle(house)


@pytest.fixture
def admin(house):
    with Visitor(house, Role.ADMIN) as visitor:
        yield visitor


@pytest.fixture
def reviewer(house):
    with Visitor(house, Role.REVIEWER) as visitor:
        yield visitor


def test_somebody_signs_in_and_out(house):
    user = house.users[LOCAL_TEAM, Role.REVIEWER]
    with Visitor(house) as visitor:
        sent = visitor.get("/audits/abcd")
        assert sent.headers["location"] == "/sign-in?next=%2Faudits%2Fabcd"
        form = visitor.page(sent.headers["location"])
        visitor.csrf = next(item.get("value") for item in form.all("input") if item.get("name") == "csrf")
        wrong = visitor.post("/sign-in", {"team": "local", "name": user.name, "password": "wrong", "next": "/models"})
        root = told(wrong, 401)
        assert "the password is wrong" in root.text
        assert [item.get("value") for item in root.all("input") if item.get("name") == "name"] == [user.name]
        right = {"team": "local", "name": user.name, "password": PASSWORD, "next": "/models"}
        answer = visitor.post("/sign-in", right)
        assert (answer.status_code, answer.headers["location"]) == (303, "/models")
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=lax" in cookie
        page = visitor.page("/models")
        assert user.name in page.text
        visitor.csrf = next(item.get("value") for item in page.all("input") if item.get("name") == "csrf")
        assert visitor.post("/sign-out").headers["location"] == "/sign-in?done=signed-out"
        assert visitor.get("/models").status_code == 303


@pytest.mark.parametrize("target", ["https://evil.example/", "//evil.example", "/\\evil.example", "/a\\b", "\t//e"])
def test_signing_in_leads_nowhere_else(house, target):
    with Visitor(house) as visitor:
        form = visitor.page("/sign-in")
        visitor.csrf = next(item.get("value") for item in form.all("input") if item.get("name") == "csrf")
        name = house.users[LOCAL_TEAM, Role.SUBMITTER].name
        fields = {"team": "local", "name": name, "password": PASSWORD, "next": target}
        assert visitor.post("/sign-in", fields).headers["location"] == "/"


@pytest.mark.parametrize("verdict", list(Verdict))
def test_the_audit_page_says_what_the_report_says(house, reviewer, verdict):
    report = sample_report(verdict)
    ids = audited(house, report)
    text = reviewer.page(f"/audits/{ids['report_id']}").text
    assert headline(report.verdict) in text
    assert meaning(report) in text
    assert "Coverage 100.0%" in text
    for reason in report.verdict.reasons:
        assert " ".join(reason.split()) in text
    for section in ("Why this verdict", "Attacks", "Classes", "Layers", "Who judged", "Validity", "Decide"):
        assert section in text
    with house.client(Role.REVIEWER) as client:
        assert client.get(f"/reports/{ids['report_id']}").json()["verdict"]["verdict"] == verdict


def test_the_page_asks_for_the_current_password(house, admin):
    assert [item.get("name") for item in admin.page("/account").all("input")].count("current") == 1
    root = told(admin.post("/account/password", {"password": "another long password", "current": "wrong"}), 403)
    assert "the current password is missing or wrong" in root.text


@pytest.mark.parametrize("number", ["1" * 5000, "1e400", "nan", "3.5"])
@pytest.mark.parametrize(
    ("address", "field"),
    [("/admin/retention", "pictures_days"), ("/admin/retention", "private_data_days"), ("/account/tokens", "days")],
)
def test_what_is_no_number_of_days_is_told(house, admin, address, field, number):
    root = told(admin.post(address, {"name": "ci", "scopes": "read", field: number}), 422)
    (box,) = [item for item in root.all("section") if item.get("class") == "problems"]
    assert box.all("li")[0].text.startswith(f"{field}: ")


def test_who_submitted_which_file_and_how_long_ago_stand_at_the_top(house, reviewer, monkeypatch):
    with house.client(Role.SUBMITTER) as client:
        job = house.audit(client, f"named-{secrets.token_hex(4)}")
        assert house.wait(client, job)["submitter"] == house.users[LOCAL_TEAM, Role.SUBMITTER].name
        digest = client.get(f"/reports/{job}").json()["target"]["digest"]
    (top,) = reviewer.page(f"/audits/{job}").all("header")
    assert f"Model file sha256 {digest} · submitted by submitter-l" in top.text
    assert "· less than a day old" in top.text
    entry = house.services.audits.find_report(job)
    earlier = replace(entry, created_at=entry.created_at - timedelta(days=40))
    with monkeypatch.context() as patched:
        patched.setattr(type(house.services.audits), "find_report", lambda *_: earlier)
        assert "· 40 days old" in reviewer.page(f"/audits/{job}").text
    (top,) = reviewer.page(f"/jobs/{job}").all("header")
    assert "by submitter-l" in top.text
    again = reviewer.post(f"/jobs/{job}/rerun").headers["location"].partition("?")[0]
    assert "by reviewer-l" in reviewer.page(again).text


def test_a_finding_is_waived_shown_and_counted_again(house, reviewer):
    ids = audited(house, sample_report(Verdict.FAIL))
    address = f"/audits/{ids['report_id']}"
    root = told(reviewer.post(f"{address}/waivers", {"finding": "x y", "reason": "short", "days": "no"}), 422)
    (box,) = [item for item in root.all("section") if item.get("class") == "problems"]
    assert len(box.all("li")) == 3
    assert [item.text for item in root.all("textarea")] == ["short"], "what was typed stays"
    options = [item.get("value") for item in reviewer.page(address).all("option")]
    assert "attack:ppa" in options
    fields = {"finding": "attack:ppa", "reason": f"Retrained soon {HOSTILE}", "days": "14"}
    assert reviewer.post(f"{address}/waivers", fields).headers["location"] == f"{address}?done=waived"
    root = reviewer.page(f"{address}?done=waived")
    assert f"Retrained soon {HOSTILE}" in root.text
    withdraw = [form.get("action") for form in root.all("form") if "withdraw" in form.get("action", "")]
    assert withdraw
    assert reviewer.post(withdraw[0]).status_code == 303
    assert lines(house, 2) == ["waiver.withdraw", "waiver.create"]


def test_the_last_day_of_a_waiver_is_the_same_wherever_it_is_named(house, reviewer):
    report = sample_report(Verdict.FAIL)
    ids = audited(house, report)
    address, last = f"/audits/{ids['report_id']}", house.services.clock.now().date() + timedelta(days=5)
    with house.services.database() as tx:  # the gate goes by the name in the report, the list by that of the entry
        entry = tx.reports.find(ids["job_id"])
        tx.reports.add(replace(entry, name=report.target.name))
    fields = {"finding": "attack:ppa", "reason": "Retrained next week", "days": "5"}
    assert reviewer.post(f"{address}/waivers", fields).status_code == 303
    text = reviewer.page(address).text
    assert f"until {last}: Retrained next week" in text, "section of the gate"
    assert f"attack:ppa {last} {house.users[LOCAL_TEAM, Role.REVIEWER].name} Retrained next week" in text, "list"
    with house.client(Role.REVIEWER) as client:
        (row,) = good(client.get("/waivers", params={"model": report.target.name}))["items"]
    assert row["expires"] == str(last)
    reviewer.post(f"{address}/waivers/{row['id']}/withdraw")


def test_a_stored_waiver_that_is_none_is_shown_as_not_valid(house, reviewer):
    report = sample_report(Verdict.FAIL)
    ids, now = audited(house, report), house.services.clock.now()
    given = ("attack:ppa", ids["model"], " " * 12, "ann", now + timedelta(days=3))
    with house.services.database() as tx:
        tx.waivers.add(StoredWaiver(secrets.token_hex(16), now, LOCAL_TEAM, *given))
    assert "(not valid)" in reviewer.page(f"/audits/{ids['report_id']}").text


def lines(house, n):
    """What happened last."""
    with house.services.database() as tx:
        return [line.what for line in tx.trail.page(n)]


def test_an_audit_becomes_the_baseline_and_is_compared_with(house, reviewer):
    ids = audited(house, sample_report(Verdict.FAIL))
    address = f"/audits/{ids['report_id']}"
    assert "Withdraw the approval" in reviewer.page(address).text, "the specimen is the baseline already"
    assert reviewer.post(f"{address}/baseline", {"withdraw": "yes"}).headers["location"].endswith("done=unapproved")
    assert "has no baseline" in reviewer.page(address).text
    assert reviewer.post(f"{address}/baseline").headers["location"].endswith("done=approved")
    assert "later audits of" in reviewer.page(address).text
    assert lines(house, 2) == ["baseline.approve", "baseline.withdraw"]


def test_pictures_are_coarse_until_asked_for_and_every_look_is_written_down(house, reviewer):
    ids = audited(house, sample_report(Verdict.FAIL), sample_gallery(n_rows=1, per_row=2))
    address = f"/audits/{ids['report_id']}/pictures"
    root = reviewer.page(address)
    images = root.all("img")
    assert len(images) == 3
    assert all(image.get("src").startswith("data:image/png") and len(image.get("src")) < 400 for image in images)
    assert lines(house, 1) != ["picture.view"], "the coarse ones are no look at a picture"
    shown = [link.get("href") for link in root.all("a") if link.get("class") == "show"]
    root = reviewer.page(shown[1].partition("#")[0])
    clear = [image.get("src") for image in root.all("img") if image.get("class") == "clear"]
    assert len(clear) == 1
    answer = reviewer.get(clear[0])
    assert answer.content == sample_gallery(n_rows=1, per_row=2).rows[0].reconstructions_png[1]
    with house.services.database() as tx:
        (line,) = tx.trail.page(1)
    assert (line.what, line.who, line.detail) == ("picture.view", "reviewer-l", {"picture": "0-reconstruction-1"})


def test_who_is_no_reviewer_is_offered_no_decision_of_reviewers(house):
    ids = audited(house, sample_report(Verdict.FAIL))
    with Visitor(house, Role.SUBMITTER) as visitor:
        root = visitor.page(f"/audits/{ids['report_id']}")
    actions = [form.get("action", "").rpartition("/")[2] for form in root.all("form")]
    assert "waivers" not in actions
    assert "baseline" not in actions
    assert "repairs" in actions
    assert not [link for link in root.all("a") if link.get("href", "").endswith("/pictures")]


def test_audits_that_cannot_be_paired_say_why(house, reviewer):
    report = sample_report(Verdict.FAIL)
    first = audited(house, report)["report_id"]
    other = report.plan.model_copy(update={"seed": 7, "samples_per_class": 9})
    second = audited(house, report.model_copy(update={"plan": other}))["report_id"]
    text = reviewer.page(f"/compare?before={first}&after={second}").text
    assert "These two cannot be compared" in text
    assert "the plans differ: seed: " in text
    assert "the plans differ: samples_per_class: " in text
    assert "Class by class" not in text


def test_audits_are_paired_by_class(house, reviewer):
    first = audited(house, sample_report(Verdict.FAIL))["report_id"]
    second = audited(house, sample_report(Verdict.PASS))["report_id"]
    root = reviewer.page(f"/compare?before={first}&after={second}")
    assert "Class by class" in root.text
    tables = [table for table in root.all("table") if "Before minus after" in table.text]
    assert len(tables) == 3
    assert root.all("svg")


def test_a_running_job_shows_neither_zeros_nor_a_verdict(house):
    with Visitor(house, Role.SUBMITTER) as visitor:
        fields = {"manifest": "model:\n  name: slow-page\n", "fresh": "yes"}
        answer = visitor.post("/submit", fields, files=MODEL)
        job = urlsplit(answer.headers["location"]).path
        wait_for(lambda: "attack/ppa/0 ▶ running" in visitor.page(job).text)
        for address in (job, f"{job}/progress", "/?model=slow-page"):
            root = parsed(visitor.get(address).text)
            assert not re.search(r"\b(Fail|Pass|Inconclusive)\b|Lift|\b0(\.0)?%", root.text)
        behind = visitor.post("/submit", {"manifest": "model:\n  name: next-page\n"}, files=MODEL)
        assert re.search(r"next-page audit · [0-9a-f]+ 1 ", visitor.page("/?model=next-page").text)
        assert "Place 1 in the queue" in visitor.page(urlsplit(behind.headers["location"]).path).text
        root = visitor.page(job)
        assert root.all("noscript")[0].all("meta")[0].get("http-equiv") == "refresh"
        assert visitor.post(f"{job}/cancel").headers["location"] == f"{job}?done=cancelled"
        wait_for(lambda: "Cancelled; what is finished is kept" in visitor.page(job).text)
        assert visitor.get(f"{job}/progress").headers["hx-refresh"] == "true"
        let_go(house.settings.home)
        assert visitor.post(f"{job}/resume").headers["location"] == f"{job}?done=resumed"
        wait_for(lambda: "Read the report" in visitor.page(job).text)
        hold(house.settings.home)
        again = visitor.post(f"{job}/rerun").headers["location"]
        assert urlsplit(again).path != job
        assert visitor.post(f"{job}/rerun").headers["location"] == f"{urlsplit(again).path}?done=reused"
        let_go(house.settings.home)
        wait_for(lambda: "Read the report" in visitor.page(urlsplit(again).path).text)


def test_an_audit_whose_files_are_no_longer_stored_is_not_run_again(house):
    with Visitor(house, Role.SUBMITTER) as visitor:
        answer = visitor.post(
            "/submit", {"manifest": "model:\n  name: kept-short\n"}, files={"model_file": ("m.onnx", b"kept short")}
        )
        job = urlsplit(answer.headers["location"]).path
        wait_for(lambda: "Read the report" in visitor.page(job).text)
        with house.services.database() as tx:
            submission = tx.submissions.get(tx.jobs.get(job.rpartition("/")[2]).submission_id)
        house.services.store.delete(submission.inputs["model"])
        answer = visitor.post(f"{job}/rerun")
    assert answer.status_code == 409
    assert "retention has deleted what this needs" in parsed(answer.text).text


def test_an_audit_by_what_is_no_longer_the_teams_policy_is_not_run_again(house, reviewer):
    manifest = "model:\n  name: named-first\npolicy:\n  name: named-first\n  fail_on: critical\n"
    with Visitor(house, Role.SUBMITTER) as visitor:
        job = urlsplit(visitor.post("/submit", {"manifest": manifest}, files=MODEL).headers["location"]).path
        wait_for(lambda: "Read the report" in visitor.page(job).text)
        reviewer.post("/policies", {"policy": "name: named-first\nfail_on: low\n"})
        answer = visitor.post(f"{job}/rerun")
    assert answer.status_code == 422
    assert "your team has another policy 'named-first'" in parsed(answer.text).text


def test_pictures_that_an_older_version_let_through_are_told_as_unreadable(house, reviewer):
    ids = audited(house, sample_report(Verdict.FAIL))
    with house.services.database() as tx:
        entry = tx.reports.find(ids["job_id"])
        tx.reports.add(replace(entry, gallery_digest=house.services.store.put_bytes(b'{"rows":5}')))
    answer = reviewer.get(f"/audits/{ids['job_id']}/pictures")
    assert answer.status_code == 500
    assert "the pictures of the report" in answer.text
    assert "cannot be read: rows: Input should be" in answer.text
    before = audited(house, sample_report(Verdict.FAIL), sample_gallery(n_rows=2))
    root = reviewer.page(f"/compare?before={before['job_id']}&after={ids['job_id']}")
    assert "The audit after has none" in root.text
    assert "What changed" in root.text


def test_a_failed_job_says_what_to_do(house):
    with Visitor(house, Role.SUBMITTER) as visitor:
        fields = {"manifest": "model:\n  name: broken-prepare\n"}
        answer = visitor.post("/submit", fields, files=MODEL)
        job = urlsplit(answer.headers["location"]).path
        wait_for(lambda: "Failed; nothing was decided" in visitor.page(job).text)
        text = visitor.page(job).text
    assert "this model is broken-prepare" in text
    assert "What to do" in text
    assert "Resume" in text


def test_the_queue_is_filtered_and_paged(house, monkeypatch):
    monkeypatch.setattr("auditor.api.web.routes.queue._PER_PAGE", 2)
    things = [specimen(house, LOCAL_TEAM) for _ in range(2)]
    with Visitor(house, Role.SUBMITTER) as visitor:
        seen, address = [], "/?state=done&kind=audit"
        while address:
            root = visitor.page(address)
            rows = [link for link in root.all("a") if link.get("href", "").startswith("/audits/")]
            assert len(rows) <= 2
            seen += [link.get("href").rpartition("/")[2] for link in rows]
            address = next((link.get("href") for link in root.all("a") if link.get("rel") == "next"), None)
        assert len(seen) == len(set(seen))
        assert {thing.ids["job_id"] for thing in things} <= set(seen)
        only = visitor.page(f"/?model={things[0].ids['model'].upper()}&kind=repair")
        assert [link.text for link in only.all("a") if link.get("href", "").startswith("/repairs/")] == [
            things[0].ids["model"]
        ]


def test_a_token_is_shown_once(house):
    with Visitor(house, Role.SUBMITTER) as visitor:
        wrong = visitor.post("/account/tokens", {"name": "no good", "scopes": ["admin"], "days": "0"})
        (box,) = [item for item in told(wrong, 422).all("section") if item.get("class") == "problems"]
        assert len(box.all("li")) == 2
        answer = visitor.post("/account/tokens", {"name": "ci", "scopes": ["read", "submit"], "days": "30"})
        secret = next(item.text for item in told(answer, 200).all("code") if item.get("id") == "secret")
        assert secret not in visitor.get("/account").text
    with house.client(token=secret) as client:
        assert client.get("/session").json()["scopes"] == ["read", "submit"]


def test_an_admin_adds_people_and_sets_retention(house, admin):
    name = f"ann-{secrets.token_hex(4)}"
    root = told(admin.post("/admin/users", {"name": "a b", "role": "boss", "password": "short"}), 422)
    (box,) = [item for item in root.all("section") if item.get("class") == "problems"]
    assert len(box.all("li")) == 3
    fields = {"name": name, "role": "reviewer", "password": "a long enough password"}
    assert admin.post("/admin/users", fields).status_code == 303
    assert told(admin.post("/admin/users", fields), 409)
    assert name in admin.page("/admin").text
    assert admin.post("/admin/retention", {"pictures_days": "30", "private_data_days": ""}).status_code == 303
    values = {item.get("name"): item.get("value") for item in admin.page("/admin").all("input")}
    assert (values["pictures_days"], values["private_data_days"]) == ("30", "")
    assert admin.post("/admin/retention", {"pictures_days": "-1"}).status_code == 422


def test_a_model_over_its_versions(house, reviewer):
    ids = audited(house, sample_report(Verdict.INCONCLUSIVE))
    root = reviewer.page(f"/models/{ids['model']}")
    assert "? Inconclusive" in root.text
    assert root.all("svg")[0].all("desc")
    assert told(reviewer.get("/models/nobodys"), 404)


def test_a_page_that_is_not_there_names_no_command(reviewer):
    for address in ("/jobs/" + "e" * 32, "/reports/" + "e" * 64, "/repairs/" + "e" * 32, "/models/nobodys"):
        text = told(reviewer.get(address), 404).text
        assert "What to do:" in text, address
        assert "auditor list" not in text, address
