"""What is listed of a report that a unit left."""

import pytest
from pydantic import ValidationError

from auditor.contracts.base import canonical_json
from auditor.contracts.jobs import UnitResult, UnitSpec
from auditor.contracts.outcome import ClassRow
from auditor.contracts.policy import Policy, RiskLevel, Verdict
from auditor.errors import RunnerFailure
from auditor.report.render_repair_html import render_repair_html
from auditor.report.repair_view import repair_meaning
from auditor.risk.gate import decide_gate
from auditor.service import reports
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


def test_a_report_that_no_rule_can_reckon_with_is_not_taken(monkeypatch):
    def overflow(_report):
        raise OverflowError("cannot convert float infinity to integer")

    monkeypatch.setattr(reports, "by_its_evidence", overflow)
    with pytest.raises(RunnerFailure, match="left a report that cannot be judged: cannot convert"):
        entry_of(AUDIT_REPORT, sample_report())


@pytest.mark.parametrize(("key", "value"), [("both", 1e308), ("both", -0.1), ("control_both", 1.5), ("n", -1)])
def test_shares_that_are_none_are_refused(key, value):
    row = sample_report().attacks[0].per_class[0].model_dump(mode="json")
    with pytest.raises(ValidationError):
        ClassRow.model_validate(row | {key: value})
