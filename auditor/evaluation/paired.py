"""Two audits compared class by class: for a repair's before and after, and for `auditor diff`. Never reaches torch.

Classes differ far more from each other than one class does between two audits, so differences are paired by class
(card D.8): the same resampled classes on both sides.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from auditor.contracts.access import Access
from auditor.contracts.outcome import AttackOutcome, ClassRow
from auditor.contracts.plan import AuditPlan
from auditor.contracts.repair import PairedDifference
from auditor.contracts.report import AuditReport
from auditor.contracts.scores import NotMeasured, Score
from auditor.evaluation.intervals import Bootstrap, Interval, lift_interval, mean_interval
from auditor.evaluation.scoring import measured
from auditor.proportions import wilson

PAIRED_METRICS = ("evaluator_top1", "evaluator_top5", "judge_top1", "judge_top5", "both")
"""Columns of the per-class table that can be compared."""


def paired_difference(
    before: Sequence[ClassRow], after: Sequence[ClassRow], metric: str, bootstrap: Bootstrap
) -> Score:
    """Mean over the classes of both tables of `metric` before minus after, with its paired class-bootstrap interval.

    When no class changed at all, the bootstrap has no spread; the interval is then what a Wilson bound allows for a
    share of 0 among G classes, in both directions.
    """
    name = f"{metric}_difference"
    if metric not in PAIRED_METRICS:
        raise ValueError(f"'{metric}' is not one of {', '.join(PAIRED_METRICS)}")
    pairs = _matched(before, after)
    if not pairs:
        return NotMeasured(metric=name, reason="the two audits have no attacked class in common")
    differences = np.array([getattr(b, metric) - getattr(a, metric) for b, a in pairs])
    interval = mean_interval(differences, n_resamples=bootstrap.n_resamples, generator=bootstrap.rng("paired", metric))
    if not differences.any():
        interval = _unchanged(len(differences))
    n = sum(min(b.n, a.n) for b, a in pairs)
    return measured(name, interval, n, unit="ratio", higher_is_riskier=False)


def paired_lift_difference(
    before: Sequence[ClassRow], after: Sequence[ClassRow], bootstrap: Bootstrap, *, own_control: bool = False
) -> Score:
    """Lift before minus lift after, the same resampled classes in all six means.

    The bounds are those of the difference of two `lift_interval` numerators over one ceiling: both audits must have
    judged with the same prior, so their ceilings and controls must agree; else the difference is not measured.

    Args:
        before: classes of the first audit's attack.
        after: classes of the second's.
        bootstrap: resamples and seed.
        own_control: the control is made of each attack's own pictures (another row's reconstruction), so the two may
            differ: each is taken from its own rate, and the gap to the ceiling is that of `before`.

    Returns:
        The difference. When no class changed at all its bounds are those of `paired_difference`, over the gap.
    """
    pairs = [(b, a) for b, a in _matched(before, after) if b.ceiling_both is not None]
    if not pairs:
        return NotMeasured(metric="lift_difference", reason="no class with a ceiling was attacked in both audits")
    same = all(b.ceiling_both == a.ceiling_both and (own_control or b.control_both == a.control_both) for b, a in pairs)
    if not same:
        reason = "the two audits used different priors, evaluators or judges (controls or ceilings differ)"
        return NotMeasured(metric="lift_difference", reason=reason)
    control = np.array([b.control_both for b, _ in pairs])
    ceiling = np.array([b.ceiling_both for b, _ in pairs], dtype=np.float64)
    differences = np.array([(b.both - b.control_both) - (a.both - a.control_both) for b, a in pairs])
    interval = lift_interval(
        differences + control,
        control,
        ceiling,
        n_resamples=bootstrap.n_resamples,
        generator=bootstrap.rng("paired", "lift"),
        is_rate=False,
    )
    if interval is None:
        return NotMeasured(metric="lift_difference", reason="the prior's ceiling does not exceed its control")
    if not differences.any():
        spread = _unchanged(len(pairs)).high / float((ceiling - control).mean())
        interval = Interval(0.0, -spread, spread)
    n = sum(min(b.n, a.n) for b, a in pairs)
    return measured("lift_difference", interval, n, unit="ratio", higher_is_riskier=False)


def compare_outcomes(before: AttackOutcome, after: AttackOutcome, bootstrap: Bootstrap) -> tuple[PairedDifference, ...]:
    """One attack under two audits: evaluator, judge and both-agree rates, and the lift."""
    rows = []
    for column, metric in (
        ("evaluator_top1", "evaluator_top1"),
        ("judge_top1", "judge_top1"),
        ("both", "both_agree"),
        ("lift", "lift"),
    ):
        if column == "lift":
            own = before.access is Access.SPLIT
            difference = paired_lift_difference(before.per_class, after.per_class, bootstrap, own_control=own)
        else:
            difference = paired_difference(before.per_class, after.per_class, column, bootstrap)
        rows.append(
            PairedDifference(
                attack=before.key,
                metric=metric,
                before=before.score(metric),
                after=after.score(metric),
                difference=difference,
            )
        )
    return tuple(rows)


def compare_reports(before: AuditReport, after: AuditReport) -> tuple[PairedDifference, ...]:
    """Every attack that both reports hold, paired by key, with the first report's resamples and seed."""
    bootstrap = Bootstrap(before.plan.n_bootstrap, before.plan.seed)
    others = {outcome.key: outcome for outcome in after.attacks}
    return tuple(
        row
        for outcome in before.attacks
        if outcome.key in others
        for row in compare_outcomes(outcome, others[outcome.key], bootstrap)
    )


def with_own_evaluator(report: AuditReport) -> AuditPlan:
    """The report's plan with the evaluator's architecture that it was carried out with, where the plan left it open.

    Left open, it is one that differs from the target's, so that a repaired model, whose layers have other shapes, could
    be met by another evaluator than the model before it.
    """
    if isinstance(report.evaluator, NotMeasured):
        return report.plan
    evaluator = report.plan.evaluator.model_copy(update={"architecture": report.evaluator.architecture})
    return report.plan.model_copy(update={"evaluator": evaluator})


def plan_differences(before: AuditReport, after: AuditReport) -> list[str]:
    """Fields in which the plans differ; what they only tell does not count, nor do attacks that are in `after` alone.

    So the audit of a repaired model, which also meets attacks that know its defense, has the plan of the one before.
    """
    shared = {attack.key for attack in before.plan.attacks}
    both = tuple(attack for attack in after.plan.attacks if attack.key in shared)
    told = {"name", "left_out", "withheld", "repairs"}
    one = with_own_evaluator(before).model_dump(mode="json", exclude=told)
    other = with_own_evaluator(after).model_copy(update={"attacks": both}).model_dump(mode="json", exclude=told)
    return [f"{key}: {one[key]} and {other[key]}" for key in one if one[key] != other[key]]


def _unchanged(n_classes: int) -> Interval:
    """No class changed: zero, within what a Wilson bound allows for a share of 0 among the classes."""
    _, spread = wilson(0.0, n_classes)
    return Interval(0.0, -spread, spread)


def _matched(before: Sequence[ClassRow], after: Sequence[ClassRow]) -> list[tuple[ClassRow, ClassRow]]:
    """Rows of the same class, in class order."""
    others = {row.label: row for row in after}
    return [(row, others[row.label]) for row in sorted(before, key=lambda r: r.label) if row.label in others]
