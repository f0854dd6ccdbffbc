"""What a repair audited on its way is told from the audits that people asked for."""

import secrets
from dataclasses import replace

import pytest
from api_house import good, problem
from pages_house import Visitor, audited

from auditor.contracts.base import canonical_json
from auditor.contracts.jobs import JobKind, JobState
from auditor.contracts.people import Role
from auditor.contracts.policy import Verdict
from auditor.testing.reports import sample_report


@pytest.fixture
def reviewer(house):
    with Visitor(house, Role.REVIEWER) as visitor:
        yield visitor


def repaired(house, state):
    """A model whose audit failed, and a repair in this state whose trial and outcome passed; its name, its job."""
    ids = audited(house, sample_report(Verdict.FAIL))
    passing = sample_report(Verdict.PASS)
    with house.services.database() as tx:
        job, entry = tx.jobs.get(ids["job_id"]), tx.reports.of_job(ids["job_id"])[0]
        repair = replace(job, id=secrets.token_hex(16), kind=JobKind.REPAIR, state=state, fingerprint="")
        tx.jobs.add(repair)
        digests = {}
        for key in ("k2/finish", "after/finish"):
            of_key = passing.model_copy(update={"id": secrets.token_hex(32)})
            digests[key] = house.services.store.put_bytes(canonical_json(of_key).encode())
            new = {"job_id": repair.id, "report_id": of_key.id, "unit_key": key, "digest": digests[key]}
            tx.reports.add(replace(entry, verdict="pass", level="low", name=job.name, **new))
    return job.name, repair.id, digests


@pytest.mark.parametrize("state", [JobState.RUNNING, JobState.CANCELLED, JobState.FAILED])
def test_a_repair_that_is_not_done_has_no_verdict_anywhere(house, reviewer, state):
    name, job, _ = repaired(house, state)
    for place in ("/models", f"/models/{name}", f"/?model={name}"):
        rows = [row.text for row in reviewer.page(place).all("tr") if name in row.text or "Pass" in row.text]
        assert not any("Pass" in row for row in rows), place
    with house.client(Role.REVIEWER) as client:
        for place in (f"/reports/{job}", f"/reports/{job}/entry"):
            assert client.get(place).status_code == 404


def test_the_audit_of_a_repaired_file_says_so_and_is_not_the_models_verdict(house, reviewer):
    name, _, digests = repaired(house, JobState.DONE)
    (row,) = [row.text for row in reviewer.page("/models").all("tr") if name in row.text]
    assert "Fail" in row
    (row,) = [row.text for row in reviewer.page(f"/models/{name}").all("tr") if "Pass" in row.text]
    assert "of the file that a repair made" in row
    assert "of the file that a repair made" in reviewer.page(f"/audits/{digests['after/finish']}").text
    assert "a quick trial of a repair" in reviewer.page(f"/audits/{digests['k2/finish']}").text


def test_lists_of_reports_hold_what_people_asked_for_and_no_trial(house, reviewer):
    name, _, digests = repaired(house, JobState.DONE)
    with house.client(Role.REVIEWER) as client:
        rows = [row for row in good(client.get("/reports"))["items"] if row["name"] == name]
    assert {row["unit_key"] for row in rows} == {"finish", "after/finish"}
    assert digests["k2/finish"] not in {row["digest"] for row in rows}


def test_a_trial_is_no_baseline_and_the_audit_of_the_repaired_file_may_be_one(house):
    name, _, digests = repaired(house, JobState.DONE)
    with house.client(Role.REVIEWER) as client:
        refused = client.put(f"/baselines/{name}", json={"report": digests["k2/finish"]})
        assert "is a quick trial of a repair, not a full audit" in str(problem(refused, 422, "invalid_input"))
        assert good(client.put(f"/baselines/{name}", json={"report": digests["after/finish"]}))["model"] == name


def test_what_a_repair_audited_is_not_run_again_by_itself(house, reviewer):
    _, job, digests = repaired(house, JobState.DONE)
    for digest in digests.values():
        assert "Run again" not in reviewer.page(f"/audits/{digest}").text
    assert "Run again" in reviewer.page(f"/jobs/{job}").text


def test_a_lost_report_hides_no_other(house, reviewer):
    name, _, digests = repaired(house, JobState.DONE)
    house.services.store.delete(digests["after/finish"])
    root = reviewer.page(f"/models/{name}")
    assert "1 report cannot be read any more" in root.text
    assert any("Fail" in row.text for row in root.all("tr"))
    house.services.store._blobs._path(digests["k2/finish"]).write_bytes(b"damaged")
    with house.services.database() as tx:
        (trial,) = [row for row in tx.reports.page(9, name=name) if row.unit_key == "k2/finish"]
        tx.reports.add(replace(trial, unit_key="after/finish"))
    assert "1 report cannot be read any more" in reviewer.page(f"/models/{name}").text
    with house.services.database() as tx:
        (submitted,) = tx.reports.page(9, name=name, kind=JobKind.AUDIT, keys=["finish"])
    house.services.store.delete(submitted.digest)
    assert "2 reports cannot be read any more" in reviewer.page(f"/models/{name}").text
