"""What a gate under another policy tells, and a stored verdict that is better than its evidence."""

import pytest

from auditor.contracts.policy import Policy, RiskLevel, Thresholds, Verdict
from auditor.report.formats import FORMATS, render
from auditor.risk.gate import by_its_evidence, decide_gate
from auditor.testing.reports import sample_report

LOOSE = Policy(
    name="loose",
    fail_on=RiskLevel.CRITICAL,
    thresholds=Thresholds(
        high_lift=0.94, critical_lift=0.95, clear_lift=0.93, critical_named_frac=1.0, clear_worst_class=1.0
    ),
)
TEXTS = sorted(set(FORMATS) - {"json"})


@pytest.fixture(scope="module")
def leaking():
    return sample_report(Verdict.FAIL)


@pytest.mark.parametrize("fmt", TEXTS)
def test_every_format_of_a_gate_says_that_its_policy_is_looser(leaking, fmt):
    text = render(decide_gate(leaking, LOOSE), fmt)
    assert "looser than the built-in one" in text
    assert "No attack of this suite succeeded" not in text


@pytest.mark.parametrize("fmt", TEXTS)
def test_a_stricter_gate_takes_that_back(leaking, fmt):
    loosely = decide_gate(leaking, LOOSE).model_copy(update={"gate": None})
    assert "looser than the built-in one" in render(loosely, fmt)
    assert "looser than the built-in one" not in render(decide_gate(loosely, Policy(name="strict")), fmt)


def test_one_and_the_same_policy_changes_no_finding(leaking):
    assert decide_gate(leaking, leaking.policy).findings == leaking.findings


def test_a_stored_pass_on_evidence_that_fails_today_is_a_fail_for_every_reader(leaking):
    lenient = leaking.model_copy(
        update={"verdict": leaking.verdict.model_copy(update={"verdict": Verdict.PASS, "level": RiskLevel.LOW})}
    )
    decided = by_its_evidence(lenient)
    assert (decided.decision.verdict, decided.verdict.level) == (Verdict.FAIL, leaking.verdict.level)


@pytest.mark.parametrize("verdict", list(Verdict))
def test_what_its_evidence_bears_out_is_left_byte_for_byte(verdict):
    report = sample_report(verdict)
    assert by_its_evidence(report) is report


OTHER_POLICIES = [
    Policy(name="house", version="2"),
    Policy(name="strict", fail_on=RiskLevel.MEDIUM),
    LOOSE,
]


@pytest.mark.parametrize("policy", OTHER_POLICIES, ids=lambda policy: policy.name)
@pytest.mark.parametrize("before", [Verdict.FAIL, Verdict.INCONCLUSIVE])
def test_no_other_policy_passes_what_older_rules_failed(policy, before):
    stored = sample_report(Verdict.PASS).model_copy(update={"verdict": sample_report(before).verdict})
    gate = decide_gate(stored, policy).decision
    assert gate.verdict is Verdict.INCONCLUSIVE
    assert any("stored verdict is worse" in reason for reason in gate.missing)
    assert decide_gate(sample_report(Verdict.PASS), policy).decision.verdict is Verdict.PASS


def test_a_stored_fail_keeps_its_force(leaking):
    passing = sample_report(Verdict.PASS)
    stored = passing.model_copy(update={"verdict": leaking.verdict})
    assert by_its_evidence(stored) is stored
