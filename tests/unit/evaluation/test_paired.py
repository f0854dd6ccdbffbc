"""Two audits compared class by class."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from auditor.contracts.access import Access
from auditor.contracts.outcome import AttackOutcome, ClassRow, Coverage, OutcomeStatus
from auditor.contracts.scores import Measured, NotMeasured
from auditor.evaluation.intervals import Bootstrap
from auditor.evaluation.paired import compare_outcomes, paired_difference, paired_lift_difference, plan_differences
from auditor.testing.reports import sample_report

BOOTSTRAP = Bootstrap(400, 0)


def table(both, *, control: float = 0.01, ceiling: float | None = 0.6, first: int = 0) -> list[ClassRow]:
    return [
        ClassRow(
            label=first + g, name=str(g), n=5, evaluator_top1=rate, evaluator_top5=rate, judge_top1=rate,
            judge_top5=rate, both=rate, control_both=control, ceiling_both=ceiling, knn=None,
        )
        for g, rate in enumerate(np.asarray(both, dtype=float))
    ]  # fmt: skip


def test_an_evaluator_that_the_plan_left_open_is_the_one_that_was_there():
    before = sample_report()
    assert before.plan.evaluator.architecture == "auto"
    named = before.plan.evaluator.model_copy(update={"architecture": before.evaluator.architecture})
    after = before.model_copy(update={"plan": before.plan.model_copy(update={"evaluator": named})})
    assert plan_differences(before, after) == plan_differences(after, before) == []
    other = before.evaluator.model_copy(update={"architecture": "another"})
    assert any("another" in line for line in plan_differences(before, before.model_copy(update={"evaluator": other})))


def test_pairing_is_sharper_than_two_intervals():
    base = np.random.default_rng(0).random(60) * 0.6 + 0.2
    score = paired_difference(table(base), table(base - 0.1), "both", BOOTSTRAP)
    assert isinstance(score, Measured)
    assert score.value == pytest.approx(0.1)
    assert score.high - score.low < 1e-9
    assert score.metric == "both_difference"


def test_order_of_rows_does_not_matter_and_only_common_classes_count():
    base = np.random.default_rng(1).random(40)
    before, after = table(base), table(base[10:] * 0.5, first=10)
    score = paired_difference(before, after, "judge_top1", BOOTSTRAP)
    again = paired_difference(before[::-1], after[::-1], "judge_top1", BOOTSTRAP)
    assert score == again
    assert isinstance(score, Measured)
    assert score.n == 150
    assert isinstance(paired_difference(before, table([1.0], first=99), "both", BOOTSTRAP), NotMeasured)


def test_no_change_at_all_is_not_a_certain_zero():
    score = paired_difference(table([0.0] * 60), table([0.0] * 60), "both", BOOTSTRAP)
    assert isinstance(score, Measured)
    assert score.low < 0 < score.high


def test_lift_difference_is_over_one_ceiling():
    generator = np.random.default_rng(2)
    before, after = generator.random(60), generator.random(60) * 0.2
    score = paired_lift_difference(table(before), table(after), BOOTSTRAP)
    assert isinstance(score, Measured)
    assert score.value == pytest.approx((before.mean() - after.mean()) / 0.59)
    assert 0 < score.low < score.value < score.high
    other = paired_lift_difference(table(before), table(after, ceiling=0.5), BOOTSTRAP)
    assert isinstance(other, NotMeasured)
    assert "different priors" in other.reason
    assert isinstance(paired_lift_difference(table(before, ceiling=None), table(after), BOOTSTRAP), NotMeasured)
    none = paired_lift_difference(table(before, ceiling=0.0), table(after, ceiling=0.0), BOOTSTRAP)
    assert isinstance(none, NotMeasured)


def test_an_unchanged_lift_is_not_a_certain_zero():
    score = paired_lift_difference(table([0.6] * 60), table([0.6] * 60), BOOTSTRAP)
    assert isinstance(score, Measured)
    assert score.low < -0.05
    assert score.high > 0.05


def outcome(rates, access: Access = Access.WHITE_BOX, **of_rows) -> AttackOutcome:
    return AttackOutcome(
        key="ppa", attack="ppa", access=access, paper="", params={}, prior="vae", adaptive=False,
        status=OutcomeStatus.COMPLETED, coverage=Coverage(classes_done=1, classes_planned=1, samples_done=1,
        samples_planned=1), per_class=tuple(table(rates, **of_rows)),
    )  # fmt: skip


def test_a_control_made_of_the_attacks_own_pictures_may_differ():
    """Of a cut model the control is another row's reconstruction: it moves with the attack, the ceiling does not."""

    def lowered(access: Access, **of_after):
        before = outcome(np.linspace(0.5, 0.6, 60), access)
        after = outcome(np.linspace(0.2, 0.5, 60), access, **of_after)
        return {row.metric: row.difference for row in compare_outcomes(before, after, BOOTSTRAP)}["lift"]

    split = lowered(Access.SPLIT, control=0.02)
    assert isinstance(split, Measured)
    assert split.value == pytest.approx((0.55 - 0.01 - (0.35 - 0.02)) / 0.59)
    assert isinstance(lowered(Access.WHITE_BOX, control=0.02), NotMeasured)
    assert isinstance(lowered(Access.SPLIT, control=0.02, ceiling=0.5), NotMeasured)


def test_outcomes():
    rows = compare_outcomes(outcome([0.6] * 30), outcome([0.2] * 30), BOOTSTRAP)
    assert [row.metric for row in rows] == ["evaluator_top1", "judge_top1", "both_agree", "lift"]
    assert all(isinstance(row.difference, Measured) for row in rows)
    with pytest.raises(ValueError, match="is not one of"):
        paired_difference((), (), "lift", BOOTSTRAP)


def test_comparing_reports_does_not_load_torch():
    code = "import sys, auditor.evaluation.paired; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # noqa: S603
