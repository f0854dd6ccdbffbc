"""Two audits side by side, paired by class; where they cannot be compared, why not."""

from __future__ import annotations

from dataclasses import dataclass

from auditor.contracts.outcome import ClassRow
from auditor.contracts.repair import PairedDifference
from auditor.contracts.report import AuditReport
from auditor.contracts.scores import Score
from auditor.evaluation.paired import compare_reports, plan_differences
from auditor.report.view import leading_attack
from auditor.report.wording import score_text


@dataclass(frozen=True, slots=True)
class ClassPair:
    """One class under the same attack in both audits: shares that both judges recognise."""

    name: str
    before: float
    after: float

    @property
    def difference(self) -> float:
        """Before minus after."""
        return self.before - self.after


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came out.

    Attributes:
        obstacles: why nothing is compared; empty: it is.
        warnings: what a difference may come from beside the model.
        differences: by attack and metric.
        attack: whose classes are paired.
        classes: by falling difference.
    """

    obstacles: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    differences: tuple[PairedDifference, ...] = ()
    attack: str = ""
    classes: tuple[ClassPair, ...] = ()
    accuracy: tuple[Score, Score] | None = None
    """The models' own held-out accuracy."""


def compare(before: AuditReport, after: AuditReport) -> Comparison:
    """Before against after."""
    obstacles = []
    if before.target.n_classes != after.target.n_classes:
        obstacles.append(f"the models have {before.target.n_classes} and {after.target.n_classes} classes")
    obstacles += [f"the plans differ: {line}" for line in plan_differences(before, after)]
    if not {outcome.key for outcome in before.attacks} & {outcome.key for outcome in after.attacks}:
        obstacles.append("they have no attack in common")
    warnings = tuple(_warnings(before, after))
    if obstacles:
        return Comparison(tuple(obstacles), warnings)
    attack, pairs = _pairs(before, after)
    accuracy = before.target_accuracy, after.target_accuracy
    return Comparison((), warnings, compare_reports(before, after), attack, pairs, accuracy)


def _warnings(before: AuditReport, after: AuditReport) -> list[str]:
    lines = []
    if before.provenance.data_digest != after.provenance.data_digest:
        lines.append("the two audits used different data")
    lines += [
        f"the two audits had different {what}s: the rates may differ by that"
        for what in ("evaluator", "judge")
        if _digest(getattr(before, what)) != _digest(getattr(after, what))
    ]
    if before.provenance.code_digest != after.provenance.code_digest:
        lines.append("the two audits ran on different versions of the auditor")
    if not before.policy.decides_like(after.policy):
        lines.append("the two audits were decided by different policies: levels and verdicts may differ by that")
    for one, other, name in ((before, after, "first"), (after, before, "second")):
        keys = {outcome.key for outcome in other.attacks}
        lines += [
            f"{outcome.key} stands in the {name} alone (lift {score_text(outcome.score('lift'))})"
            for outcome in one.attacks
            if outcome.key not in keys
        ]
    return lines


def _digest(card: object) -> object:
    return getattr(card, "digest", None)


def _pairs(before: AuditReport, after: AuditReport) -> tuple[str, tuple[ClassPair, ...]]:
    shared = {outcome.key: outcome for outcome in after.attacks if outcome.per_class}
    mine = tuple(outcome for outcome in before.attacks if outcome.key in shared and outcome.per_class)
    leading = leading_attack(before.model_copy(update={"attacks": mine}))
    if leading is None:
        return "", ()
    others: dict[int, ClassRow] = {row.label: row for row in shared[leading.key].per_class}
    pairs = [ClassPair(row.name, row.both, others[row.label].both) for row in leading.per_class if row.label in others]
    return leading.key, tuple(sorted(pairs, key=lambda pair: (-abs(pair.difference), pair.name)))
