"""What the pages and the Markdown show, computed once: rows of plain text and numbers from a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from auditor.contracts.outcome import AttackOutcome, ClassRow, OutcomeStatus
from auditor.contracts.report import AttackLevel, AuditReport
from auditor.contracts.scores import Measured, NotMeasured
from auditor.report.wording import score_text

RATE_COLUMNS: tuple[tuple[str, str], ...] = (
    ("both_agree", "Both agree"),
    ("control_both", "Control"),
    ("ceiling_both", "Ceiling"),
    ("lift", "Lift R"),
    ("evaluator_top1", "Evaluator"),
    ("judge_top1", "Judge"),
)
"""Metrics of the attack table, in reading order."""

FIDELITY_COLUMNS: tuple[tuple[str, str], ...] = tuple(
    (prefix + metric, f"{name}{label}")
    for metric, name in (("psnr", "PSNR"), ("ssim", "SSIM"), ("perceptual", "Perceptual"))
    for prefix, label in (("", ""), ("control_", ", other image"), ("mean_image_", ", mean image"))
)
"""How near the pictures of attacks on a cut model come to the images behind them."""


@dataclass(frozen=True, slots=True)
class AttackRow:
    """One attack as every format shows it."""

    outcome: AttackOutcome
    reading: AttackLevel | None
    cells: tuple[str, ...]
    """Texts of `RATE_COLUMNS`."""
    unmeasured: tuple[str, ...]
    """`metric: reason` of what is not measured."""

    @property
    def status(self) -> str:
        """`high`, `cannot clear`, `control`, `crashed`, `skipped`, `inapplicable` or `open`."""
        if self.outcome.status is OutcomeStatus.FAILED:
            return "crashed"
        if not self.outcome.status.ran:
            return str(self.outcome.status)
        if self.outcome.is_control:
            return "control"
        if self.reading is not None and self.reading.level is not None:
            return str(self.reading.level)
        return "cannot clear" if self.reading is not None and self.reading.rule == "E3.1" else "open"


@dataclass(frozen=True, slots=True)
class Totals:
    """Done over planned, for the whole audit (controls included)."""

    attacks_done: int
    attacks_planned: int
    classes_done: int
    classes_planned: int
    samples_done: int
    samples_planned: int

    @property
    def frac(self) -> float:
        """Share of the planned samples that is done; 0 when nothing was planned."""
        return self.samples_done / self.samples_planned if self.samples_planned else 0.0

    @property
    def complete(self) -> bool:
        """Whether all that was planned is done."""
        return self.samples_planned > 0 and (
            (self.attacks_done, self.classes_done, self.samples_done)
            == (self.attacks_planned, self.classes_planned, self.samples_planned)
        )


def attack_rows(report: AuditReport) -> tuple[AttackRow, ...]:
    """Graded attacks by falling lower bound of the lift, then controls."""
    readings = {reading.key: reading for reading in report.verdict.attacks}

    def order(outcome: AttackOutcome) -> tuple[bool, float, float, str]:
        return outcome.is_control, *_by_lift(outcome), outcome.key

    return tuple(
        AttackRow(
            outcome=outcome,
            reading=readings.get(outcome.key),
            cells=tuple(score_text(outcome.score(metric)) for metric, _ in RATE_COLUMNS),
            unmeasured=tuple(
                f"{score.metric}: {score.reason}" for score in outcome.scores if isinstance(score, NotMeasured)
            ),
        )
        for outcome in sorted(report.attacks, key=order)
    )


def fidelity_rows(report: AuditReport) -> tuple[tuple[str, ...], ...]:
    """Key and texts of `FIDELITY_COLUMNS` for every judged attack on a cut model; empty: there is none."""
    return tuple(
        (outcome.key, *(score_text(outcome.score(metric)) for metric, _ in FIDELITY_COLUMNS))
        for outcome in report.attacks
        if any(score.metric == "psnr" for score in outcome.scores)
    )


def totals(report: AuditReport) -> Totals:
    """What was done of what was planned; an attack without a result counts as planned and not done."""
    keys = {outcome.key for outcome in report.attacks}
    absent = [spec.key for spec in report.plan.attacks if spec.key not in keys]
    per_attack = max((outcome.coverage.samples_planned for outcome in report.attacks), default=0)
    return Totals(
        attacks_done=sum(outcome.status is OutcomeStatus.COMPLETED for outcome in report.attacks),
        attacks_planned=len(report.attacks) + len(absent),
        classes_done=min((outcome.coverage.classes_done for outcome in report.attacks), default=0) if not absent else 0,
        classes_planned=max((outcome.coverage.classes_planned for outcome in report.attacks), default=0),
        samples_done=sum(outcome.coverage.samples_done for outcome in report.attacks),
        samples_planned=sum(outcome.coverage.samples_planned for outcome in report.attacks) + per_attack * len(absent),
    )


def worst_first(rows: Sequence[ClassRow]) -> list[ClassRow]:
    """Classes by falling both-agree rate over their control; then by judge, evaluator and label."""
    return sorted(
        rows, key=lambda row: (-(row.both - row.control_both), -row.judge_top1, -row.evaluator_top1, row.label)
    )


def leading_attack(report: AuditReport) -> AttackOutcome | None:
    """The attack, or control, whose classes are shown first: the one with the highest bounds of the lift."""
    graded = [row.outcome for row in attack_rows(report) if row.outcome.per_class]
    return min(graded, key=_by_lift, default=None)


def _by_lift(outcome: AttackOutcome) -> tuple[float, float]:
    lift = outcome.score("lift")
    return (-lift.low, -lift.high) if isinstance(lift, Measured) else (0.0, 0.0)
