"""What is listed of a report that a unit left."""

import pytest

from auditor.contracts.base import canonical_json
from auditor.contracts.jobs import UnitResult, UnitSpec
from auditor.contracts.policy import Policy, RiskLevel, Verdict
from auditor.report.render_repair_html import render_repair_html
from auditor.report.repair_view import repair_meaning
from auditor.risk.gate import decide_gate
from auditor.service.records import Unit
from auditor.service.reports import AUDIT_REPORT, REPAIR_REPORT, reports_left_by
from auditor.testing.ports import InMemoryStore, SetClock
from auditor.testing.reports import sample_repair_report, sample_report

LOOSE = Policy(name="loose", fail_on=RiskLevel.CRITICAL)
UNIT = Unit(id="u", job_id="j", position=0, spec=UnitSpec(kind="finish", key="finish"))


def entry_of(name, report):
    store = InMemoryStore()
    result = UnitResult(outputs={name: store.put_bytes(canonical_json(report).encode())})
    (entry,) = reports_left_by(UNIT, result, store, SetClock().now())
    return entry


@pytest.mark.parametrize(("policy", "looser"), [(LOOSE, True), (Policy(name="strict"), False)])
def test_it_is_listed_whether_the_policy_is_looser(policy, looser):
    audit = decide_gate(sample_report(Verdict.FAIL), policy).model_copy(update={"gate": None})
    assert entry_of(AUDIT_REPORT, audit).looser_policy is looser
    repair = sample_repair_report().model_copy(update={"policy_loosened": policy.loosened()})
    assert entry_of(REPAIR_REPORT, repair).looser_policy is looser
    assert ("looser than the built-in one" in render_repair_html(repair)) is looser


def test_a_repair_claims_no_more_of_a_pass_than_its_policy_does():
    passed = sample_repair_report().model_copy(update={"verdict_after": Verdict.PASS})
    assert repair_meaning(passed).endswith("By its policy the audit after it passes.")
