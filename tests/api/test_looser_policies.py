"""A verdict by a policy that is looser than the built-in one is marked wherever verdicts are listed."""

from dataclasses import replace

import pytest
from pages_house import Visitor, audited

from auditor.contracts.people import Role
from auditor.contracts.policy import Policy, RiskLevel, Verdict
from auditor.risk.gate import decide_gate
from auditor.testing.reports import sample_report

LOOSE = Policy(name="loose", fail_on=RiskLevel.CRITICAL)


@pytest.fixture
def reviewer(house):
    with Visitor(house, Role.REVIEWER) as visitor:
        yield visitor


def stored(house, policy):
    """A leaking model, audited under this policy; ids, and the name of the model."""
    report = decide_gate(sample_report(Verdict.FAIL), policy).model_copy(update={"gate": None})
    ids = audited(house, report)
    with house.services.database() as tx:
        return ids, tx.jobs.get(ids["job_id"]).name


def places(ids, name):
    return [f"/?model={name}", f"/jobs/{ids['job_id']}", "/models", f"/models/{name}"]


@pytest.mark.parametrize(("policy", "marked"), [(LOOSE, True), (Policy(name="strict"), False)])
def test_every_list_says_so(house, reviewer, policy, marked):
    ids, name = stored(house, policy)
    for place in places(ids, name):
        rows = [row.text for row in reviewer.page(place).all("tr") if name in row.text]
        shown = " ".join(rows) or reviewer.page(place).text
        assert ("looser policy" in shown) is marked, place
    with house.client(Role.REVIEWER) as client:
        (row,) = [row for row in client.get("/reports").json()["items"] if row["job_id"] == ids["job_id"]]
    assert row["looser_policy"] is marked


def test_a_pass_of_which_nobody_knows_says_that(house, reviewer):
    ids, name = stored(house, LOOSE)
    with house.services.database() as tx:
        (entry,) = tx.reports.of_job(ids["job_id"])
        assert entry.verdict == "pass"
        tx.reports.add(replace(entry, looser_policy=None))
    assert "policy not recorded" in reviewer.page(f"/?model={name}").text


def test_so_does_the_comparison(house, reviewer):
    (one, _), (other, _) = stored(house, Policy(name="strict")), stored(house, LOOSE)
    root = reviewer.page(f"/compare?before={one['job_id']}&after={other['job_id']}")
    before, after = [side.text for side in root.all("section") if side.get("aria-label") in ("Before", "After")]
    assert ("looser than the built-in" in before, "looser than the built-in" in after) == (False, True)
