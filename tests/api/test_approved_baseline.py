"""The audit that a team approved, as the baseline of a gate: the same answer from API, pages and command line."""

import json
import re
import secrets
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest
from api_house import OTHERS, good, problem
from api_specimen import specimen
from pages_house import Visitor, told
from test_command_line import CommandLine

from auditor.contracts.base import canonical_json
from auditor.contracts.people import Role
from auditor.contracts.policy import Policy, RiskLevel, Verdict
from auditor.contracts.report import AuditReport
from auditor.report.formats import render
from auditor.service.records import LOCAL_TEAM
from auditor.testing.reports import sample_plan, sample_report, sample_target

WORSE = (0.6, 0.52, 0.7)
FORMATS = ("json", "html", "markdown", "sarif", "junit", "gitlab")


class Model:
    """A model of a team, whose audits say what they are told to."""

    def __init__(self, house, team=LOCAL_TEAM, name=None):
        self.house, self.team = house, team
        self.things = specimen(house, team)
        self.name = name or f"faces-{secrets.token_hex(8)}"

    def audit(self, verdict=Verdict.FAIL, report_id=None, said=None, **evidence):
        """Id of an audit with this evidence, and the verdict `said` of it."""
        report = sample_report(verdict, target=sample_target(name=self.name), **evidence)
        if said is not None:
            report = report.model_copy(update={"verdict": sample_report(said).verdict})
        report = report.model_copy(update={"id": report_id or secrets.token_hex(32)})
        with self.house.services.database() as tx:
            job = tx.jobs.get(self.things.ids["job_id"])
            job = replace(job, id=secrets.token_hex(16), name=self.name, fingerprint=secrets.token_hex(32))
            tx.jobs.add(job)
            entry = replace(
                tx.reports.find(self.things.ids["job_id"]),
                report_id=report.id,
                job_id=job.id,
                name=self.name,
                digest=self.house.services.store.put_bytes(canonical_json(report).encode()),
            )
            tx.reports.add(entry)
        return report.id


@pytest.fixture
def model(house):
    return Model(house)


@pytest.fixture
def reviewer(house):
    with house.client(Role.REVIEWER) as client:
        yield client


@pytest.fixture
def there(house, tmp_path):
    """A command line that has logged in."""
    token = house.tokens[LOCAL_TEAM, Role.SUBMITTER]
    return CommandLine(tmp_path / "laptop", AUDITOR_SERVER_URL=house.url, AUDITOR_TOKEN=token)


def approve(client, model, report_id):
    return good(client.put(f"/baselines/{model.name}", json={"report": report_id}))


def answers(client, report_id, **query):
    """The report in every format."""
    found = {}
    for fmt in FORMATS:
        answer = client.get(f"/reports/{report_id}", params={"format": fmt} | query)
        assert answer.status_code == 200, answer.text
        found[fmt] = answer.text
    return found


def decision(client, report_id, **query):
    text = client.get(f"/reports/{report_id}", params=query).text
    return AuditReport.model_validate_json(text).decision


def test_what_is_no_worse_passes_in_every_format_and_only_where_it_is_asked_for(model, reviewer):
    approved = approve(reviewer, model, model.audit())
    assert approved["findings"] == dict.fromkeys(("attack:ppa", "attack:ppa-averaged", "attack:mirror-b"), "high")
    later = model.audit()
    assert decision(reviewer, later).words == "fail"
    assert decision(reviewer, later, baseline="approved").words == "pass against the baseline"
    texts = answers(reviewer, later, baseline="approved")
    (run,) = json.loads(texts["sarif"])["runs"]
    assert (run["properties"]["verdict"], run["properties"]["failing"], run["properties"]["known"]) == ("pass", 0, 3)
    assert ET.fromstring(texts["junit"]).find(".//failure") is None  # noqa: S314 - our own
    assert {entry["severity"] for entry in json.loads(texts["gitlab"])} <= {"info", "minor", "major"}
    for fmt in ("html", "markdown"):
        assert "PASS AGAINST THE BASELINE" in texts[fmt]
        assert "Approved by reviewer-l on" in texts[fmt]


def test_what_is_worse_fails(model, reviewer):
    approve(reviewer, model, model.audit())
    found = decision(reviewer, model.audit(lift=WORSE), baseline="approved")
    assert found.verdict is Verdict.FAIL
    assert "rose by at least" in found.findings[0].regression


def test_a_worse_stored_verdict_stays_in_the_json_of_a_server_whose_team_waives(model, reviewer, there):
    """A gate that reads it there would pass by the evidence alone."""
    audit = model.audit(Verdict.PASS, said=Verdict.FAIL)
    good(
        reviewer.post(
            "/waivers", json={"finding": "attack:ppa", "model": model.name, "reason": "retrained soon", "days": 3}
        )
    )
    found = AuditReport.model_validate_json(reviewer.get(f"/reports/{audit}").text)
    assert (found.verdict.verdict, found.decision.verdict) == (Verdict.FAIL, Verdict.FAIL)
    assert there("gate", audit).returncode == 1


def test_a_stored_pass_that_fails_by_todays_rules_is_told_by_its_evidence(model, reviewer, there):
    audit = model.audit(Verdict.FAIL, said=Verdict.PASS)
    waiver = {"finding": "attack:other", "model": model.name, "reason": "retrained soon", "days": 3}
    good(reviewer.post("/waivers", json=waiver))
    told = there("report", audit, "-f", "markdown").stdout
    assert "FAIL · high" in told
    assert "stored verdict is worse" not in told
    assert "No attack of this suite succeeded" not in told


def test_the_command_line_asks_the_server(model, reviewer, there):
    approve(reviewer, model, model.audit())
    later, worse = model.audit(), model.audit(lift=WORSE)
    assert there("gate", later).returncode == 1
    known = there("gate", later, "--baseline", "approved", "-o", f"sarif={there.home.parent}/a.sarif")
    assert (known.returncode, known.stderr.count("warning")) == (0, 0), known.stderr
    assert "PASS AGAINST THE BASELINE" in known.stdout
    (run,) = json.loads((there.home.parent / "a.sarif").read_text())["runs"]
    assert run["properties"]["baseline"]["approval"]["approver"] == "reviewer-l"
    assert there("gate", worse, "--baseline", "approved").returncode == 1
    assert "PASS AGAINST" in there("report", later, "--baseline", "approved", "-f", "markdown").stdout
    job = good(reviewer.get(f"/reports/{later}/entry"))["job_id"]
    assert there("wait", job, "-q").returncode == 1
    assert there("wait", job, "-q", "--baseline", "approved").returncode == 0
    exported = there.home.parent / "report.json"
    assert there("report", job, "-f", "json", "-o", exported).returncode == 0
    assert "approval" not in exported.read_text()
    made_here = there.home.parent / "own.json"
    made_here.write_text(render(sample_report(target=sample_target(name=model.name)), "json"))
    done = there("convert", made_here, "-f", "markdown", "--baseline", "approved")
    assert "PASS AGAINST" in done.stdout, done.stderr


def test_an_approval_is_of_the_bytes_that_were_read_and_not_of_a_later_run_with_the_same_id(model, reviewer, there):
    """Same plan, data and code give the same id; another machine, or an attack that failed, may give other numbers."""
    same = secrets.token_hex(32)
    approve(reviewer, model, model.audit(report_id=same))
    later = model.audit(lift=WORSE)
    assert decision(reviewer, later, baseline="approved").verdict is Verdict.FAIL
    model.audit(report_id=same, lift=WORSE)
    assert decision(reviewer, later, baseline="approved").verdict is Verdict.FAIL
    assert there("gate", later, "--baseline", "approved").returncode == 1


def test_a_job_is_answered_with_its_own_report_whatever_ran_later(house, model, reviewer, there):
    same = secrets.token_hex(32)
    model.audit(report_id=same)
    with house.services.database() as tx:
        first = tx.reports.find(same)
    model.audit(Verdict.PASS, report_id=same)
    for reference in (first.job_id, first.digest):
        assert decision(reviewer, reference).verdict is Verdict.FAIL
        assert good(reviewer.get(f"/reports/{reference}/entry"))["digest"] == first.digest
    assert json.loads(there("report", first.job_id, "-f", "json").stdout)["verdict"]["verdict"] == "fail"


def test_none_is_approved(house, model, reviewer, there):
    report = model.audit()
    said = problem(reviewer.get(f"/reports/{report}", params={"baseline": "approved"}), 404, "not_found")
    assert said["problems"] == [f"no audit is approved as the baseline of '{model.name}'"]
    job = good(reviewer.get(f"/reports/{report}/entry"))["job_id"]
    for words in (("gate", report), ("report", report), ("wait", job)):
        done = there(*words, "--baseline", "approved")
        assert (done.returncode, done.stdout) == (2, ""), words
        assert f"no audit is approved as the baseline of '{model.name}'" in done.stderr
    with Visitor(house, Role.REVIEWER) as visitor:
        root = told(visitor.get(f"/audits/{report}?baseline=approved"), 404)
        assert "no audit is approved" in root.text
        assert "FAIL" in root.text, "the page is decided without it"


def test_a_submission_is_refused_before_it_is_sent(there, house, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"weights")
    (tmp_path / "auditor.yaml").write_text("model: {name: never-approved}\n")
    done = there("submit", tmp_path / "model.onnx", "-q", "--baseline", "approved")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no audit is approved as the baseline of 'never-approved'" in done.stderr
    assert "never-approved" not in [view.name for view in house.services.jobs.list(1000)]


def test_a_baseline_that_passed_excuses_nothing(model, reviewer):
    approved = approve(reviewer, model, model.audit(Verdict.PASS))
    assert approved["findings"] == {}
    assert decision(reviewer, model.audit(), baseline="approved").verdict is Verdict.FAIL


def test_a_baseline_that_passed_under_a_looser_policy_excuses_nothing(model, reviewer):
    approve(reviewer, model, model.audit(policy=Policy(fail_on=RiskLevel.CRITICAL)))
    found = decision(reviewer, model.audit(), baseline="approved")
    assert found.verdict is Verdict.FAIL
    assert "does not let it through" in found.findings[0].regression


def test_a_leak_of_a_higher_level_than_the_reviewer_saw_is_not_excused(model, reviewer):
    """The same numbers, read by a policy to which they are critical."""
    lift = (0.55, 0.49, 0.62)
    approve(reviewer, model, model.audit(lift=lift))
    thresholds = Policy().thresholds.model_copy(update={"critical_lift": 0.45})
    found = decision(reviewer, model.audit(lift=lift, policy=Policy(thresholds=thresholds)), baseline="approved")
    assert found.verdict is Verdict.FAIL
    (ppa,) = [finding for finding in found.findings if finding.attack == "ppa"]
    assert (ppa.level, ppa.regression.endswith("lets it through up to high")) == (RiskLevel.CRITICAL, True)


def test_a_waiver_is_not_made_eternal_by_an_approval(model, reviewer):
    """What was waived when the audit was approved fails again when the waiver is gone."""
    waiver = {"finding": "attack:ppa", "model": model.name, "reason": "retrained next week", "days": 3}
    made = good(reviewer.post("/waivers", json=waiver))
    assert set(approve(reviewer, model, model.audit())["findings"]) == {"attack:ppa-averaged", "attack:mirror-b"}
    later = model.audit()
    assert decision(reviewer, later, baseline="approved").words == "pass with waivers and against the baseline"
    assert reviewer.delete(f"/waivers/{made['id']}").status_code == 204
    found = decision(reviewer, later, baseline="approved")
    assert found.verdict is Verdict.FAIL
    assert [finding.key for finding in found.findings if finding.regression] == ["attack:ppa"]


def test_what_settles_nothing_cannot_be_approved(model, reviewer):
    body = {"report": model.audit(Verdict.INCONCLUSIVE)}
    said = problem(reviewer.put(f"/baselines/{model.name}", json=body), 422, "invalid_input")
    assert "inconclusive" in said["problems"][0]


def test_another_plan_is_an_error_everywhere(house, model, reviewer, there):
    approve(reviewer, model, model.audit(plan=sample_plan().model_copy(update={"samples_per_class": 1})))
    later = model.audit()
    said = problem(reviewer.get(f"/reports/{later}", params={"baseline": "approved"}), 422, "invalid_input")
    assert "samples_per_class" in said["problems"][0]
    done = there("gate", later, "--baseline", "approved")
    assert (done.returncode, done.stdout) == (2, "")
    assert "samples_per_class" in done.stderr
    with Visitor(house, Role.SUBMITTER) as visitor:
        assert "samples_per_class" in told(visitor.get(f"/audits/{later}?baseline=approved"), 422).text


def test_the_baseline_of_another_team_or_model_is_none(house, model, reviewer):
    with house.client(Role.REVIEWER, OTHERS) as other:
        theirs = Model(house, OTHERS, model.name)
        approve(other, theirs, theirs.audit())
    another = Model(house)
    approve(reviewer, another, another.audit())
    query = {"baseline": "approved"}
    problem(reviewer.get(f"/reports/{model.audit()}", params=query), 404, "not_found")


def test_what_was_approved_before_findings_were_kept_lets_nothing_through(house, model, reviewer):
    approve(reviewer, model, model.audit())
    with house.services.database() as tx:
        record = tx.baselines.find(name=model.name, team_id=LOCAL_TEAM)
        tx.baselines.remove(record.id)
        tx.baselines.add(replace(record, findings={}))
    assert decision(reviewer, model.audit(), baseline="approved").verdict is Verdict.FAIL


def test_a_repair_is_not_decided_on(model, reviewer):
    query = {"baseline": "approved"}
    problem(reviewer.get(f"/reports/{model.things.ids['repair_id']}", params=query), 422, "invalid_input")
    problem(reviewer.get(f"/reports/{model.audit()}", params={"baseline": "none"}), 422, "invalid_input")


def test_the_page_says_what_the_gate_says(house, model, reviewer):
    approve(reviewer, model, model.audit())
    later = model.audit()
    with Visitor(house, Role.SUBMITTER) as visitor:
        plain = visitor.page(f"/audits/{later}")
        (link,) = [item.get("href") for item in plain.all("a") if item.text == "Decide against the baseline"]
        against = visitor.page(link)
        banners = [
            next(item for item in root.all("section") if item.get("aria-label") == "Verdict").text
            for root in (plain, against)
        ]
        assert "FAIL" in banners[0]
        assert "PASS AGAINST THE BASELINE" in banners[1]
        downloads = [item.get("href") for item in against.all("a") if "format=" in item.get("href", "")]
        assert len(downloads) == len(FORMATS)
        assert all(address.endswith("&baseline=approved") for address in downloads)
        sarif = next(address for address in downloads if "format=sarif" in address)
        assert json.loads(visitor.get(sarif).text)["runs"][0]["properties"]["verdict"] == "pass"


def test_a_trial_of_a_repair_decides_nothing(house, model, reviewer, there):
    """Neither as the audit that is gated nor as the baseline, named by its id or approved before that was refused."""
    audit = model.audit()
    trial = sample_report(Verdict.FAIL, target=sample_target(name=model.name)).model_copy(update={"id": "7" * 64})
    digest = house.services.store.put_bytes(canonical_json(trial).encode())
    with house.services.database() as tx:
        entry = tx.reports.find(audit)
        tx.reports.add(replace(entry, unit_key="k2/finish", report_id=trial.id, digest=digest))
    for words in (("gate", trial.id), ("gate", audit, "--baseline", trial.id)):
        done = there(*words)
        assert (done.returncode, done.stdout) == (2, "")
        assert "is a quick trial of a repair, not a full audit" in done.stderr
    for words in (("report", trial.id, "-f", "json"), ("diff", audit, trial.id)):
        done = there(*words)
        assert (done.returncode, done.stderr.count(f"note: '{trial.id}' is a quick trial")) == (0, 1), done.stderr
    assert "quick trial" not in there("report", audit, "-f", "json").stderr
    approve(reviewer, model, audit)
    with house.services.database() as tx:
        tx.baselines.change(tx.baselines.find(name=model.name).id, digest=digest)
    done = there("gate", audit, "--baseline", "approved")
    assert (done.returncode, "is a quick trial of a repair" in done.stderr) == (2, True)
    refused = problem(reviewer.get(f"/reports/{audit}", params={"baseline": "approved"}), 422, "invalid_input")
    assert "is a quick trial of a repair" in str(refused)


def test_a_report_that_an_older_version_let_through_is_told_as_unreadable(house, model, reviewer, there):
    audit = model.audit()
    text = canonical_json(house.services.audits.get_report(audit))
    digest = house.services.store.put_bytes(re.sub(r'"n":\d+', '"n":2000000', text, count=1).encode())
    with house.services.database() as tx:
        tx.reports.add(replace(tx.reports.find(audit), digest=digest))
    words = r"the report \w{12} cannot be read: attacks\.\d+\.per_class\.0\.n: Input should be less than"
    for fmt in FORMATS:
        answer = problem(reviewer.get(f"/reports/{audit}", params={"format": fmt}), 500, "unreadable_report")
        assert re.match(words, answer["detail"])
    problem(reviewer.put(f"/baselines/{model.name}", json={"report": audit}), 500, "unreadable_report")
    done = there("gate", audit)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.search(words, done.stderr)
    with Visitor(house, Role.SUBMITTER) as visitor:
        answer = visitor.get(f"/audits/{audit}")
        assert (answer.status_code, bool(re.search(words, answer.text))) == (500, True)


@pytest.mark.parametrize("gone", ["unreadable", "lost"])
def test_a_baseline_that_cannot_be_read_is_told_as_the_baseline(house, model, reviewer, there, gone):
    approve(reviewer, model, model.audit())
    later, store = model.audit(), house.services.store
    digest = store.put_bytes(b"{}" if gone == "unreadable" else secrets.token_bytes(9))
    if gone == "lost":
        store.delete(digest)
    with house.services.database() as tx:
        approved = tx.baselines.find(name=model.name)
        tx.reports.add(replace(tx.reports.find(approved.digest), report_id=secrets.token_hex(32), digest=digest))
        tx.baselines.change(approved.id, digest=digest)
    words = f"the audit that is approved as the baseline of '{model.name}': "
    said = problem(reviewer.get(f"/reports/{later}", params={"baseline": "approved"}), 404, "not_found")
    assert words in said["detail"]
    done = there("gate", later, "--baseline", "approved")
    assert (done.returncode, done.stdout, words in done.stderr) == (2, "", True)
    with Visitor(house, Role.SUBMITTER) as visitor:
        text = told(visitor.get(f"/audits/{later}?baseline=approved"), 404).text
    assert words in text
    assert "FAIL" in text, "the audit itself is shown"
