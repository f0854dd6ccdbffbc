"""The charts of an audit report: which numbers go where on which axis."""

from __future__ import annotations

import math
from collections.abc import Sequence

from auditor.contracts.fisher import FisherReport
from auditor.contracts.policy import Thresholds
from auditor.contracts.scores import Measured, Score
from auditor.report.charts import Axis, Mark, MarkKind, Row, Zone, bar_chart, mark_chart
from auditor.report.view import AttackRow
from auditor.report.wording import score_text

_LIFT_LOW, _LIFT_HIGH = -0.2, 1.2
"""What of the lift is drawn; longer intervals run to the edge, and the text gives their bounds."""


def level_zones(t: Thresholds, high: float) -> tuple[Zone, ...]:
    """The policy's levels as stretches of the lift axis."""
    return (
        Zone("low", -10.0, t.clear_lift, "low"),
        Zone("medium", t.clear_lift, t.high_lift, "medium"),
        Zone("high", t.high_lift, t.critical_lift, "high"),
        Zone("critical", t.critical_lift, max(high, t.critical_lift), "critical"),
    )


def lift_axis(scores: Sequence[Score], t: Thresholds) -> Axis:
    """An axis from a little under 0 to what is needed, in steps of 0.1 or 0.2."""
    highs = [score.high for score in scores if isinstance(score, Measured)]
    lows = [score.low for score in scores if isinstance(score, Measured)]
    high = min(max([t.critical_lift + 0.1, *highs]), _LIFT_HIGH)
    low = max(min([-0.05, *lows]), _LIFT_LOW)
    top = math.ceil(high * 10 - 1e-9) / 10
    step = 0.1 if top <= 0.8 else 0.2
    ticks = tuple(round(step * k, 1) for k in range(int(top / step + 1e-9) + 1))
    return Axis(low, top, ticks, "ratio", level_zones(t, top))


def lift_chart(rows: Sequence[AttackRow], t: Thresholds) -> str:
    """Lift R of every attack with its interval, on the policy's levels."""
    scores = [row.outcome.score("lift") for row in rows]
    axis = lift_axis(scores, t)
    lines = [
        Row(
            row.outcome.key + (" (control)" if row.outcome.is_control else ""),
            score_text(score),
            _marks(("main", score)),
            muted=row.outcome.is_control,
        )
        for row, score in zip(rows, scores, strict=True)
    ]
    description = "; ".join(f"{line.label}: {line.text}" for line in lines)
    return mark_chart(lines, axis, title="Lift R by attack", description=description)


def rate_chart(rows: Sequence[AttackRow]) -> str:
    """Both-agree rate with interval, judge, evaluator, control and ceiling of every attack."""
    kinds: tuple[tuple[MarkKind, str], ...] = (
        ("tick", "control_both"),
        ("cap", "ceiling_both"),
        ("diamond", "evaluator_top1"),
        ("ring", "judge_top1"),
        ("main", "both_agree"),
    )
    lines = []
    for row in rows:
        marks = _marks(*((kind, row.outcome.score(metric)) for kind, metric in kinds))
        lines.append(
            Row(row.outcome.key, score_text(row.outcome.score("both_agree")), marks, muted=row.outcome.is_control)
        )
    axis = Axis(0.0, 1.0, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0), "frac")
    description = "; ".join(f"{line.label}: both agree {line.text}" for line in lines)
    return mark_chart(lines, axis, title="Recognised reconstructions by attack", description=description)


def _marks(*values: tuple[MarkKind, Score]) -> tuple[Mark, ...]:
    marks = []
    for kind, score in values:
        if isinstance(score, Measured):
            bounds = (score.low, score.high) if kind == "main" else (None, None)
            marks.append(Mark(kind, score.value, *bounds))
    return tuple(marks)


def fisher_chart(fisher: FisherReport) -> str:
    """Shares of Fisher information by unit: classification, inversion with intervals, and the placebo as a tick."""
    name = fisher.aggregator
    rows = []
    for unit in fisher.units:
        bars = (unit.classification_share.get(name, 0.0), unit.inversion_share.get(name, 0.0))
        marks = (Mark("tick", unit.placebo_share[name]),) if name in unit.placebo_share else ()
        whiskers = (unit.classification_interval, unit.inversion_interval)
        rows.append(Row(unit.name, f"{bars[0]:.1%} / {bars[1]:.1%}", marks, bars, whiskers))
    ends = (value for row in rows for bounds in row.whiskers if bounds is not None for value in bounds)
    largest = max(
        (*ends, *(value for row in rows for value in (*row.bars, *(m.value for m in row.marks)))), default=1.0
    )
    step = next(step for step in (0.02, 0.05, 0.1, 0.2, 1.0) if largest <= 6 * step or step == 1.0)
    top = max(math.ceil(largest / step - 1e-9) * step, step)
    ticks = tuple(round(step * k, 2) for k in range(round(top / step) + 1))
    description = "; ".join(f"{row.label}: classification / inversion {row.text}" for row in rows)
    return bar_chart(rows, Axis(0.0, top, ticks, "frac"), title="Fisher shares by unit", description=description)


def contrast_chart(fisher: FisherReport) -> str:
    """Contrast of every unit with its interval; 0 in the middle."""
    bounds = [abs(v) for unit in fisher.units for v in (unit.contrast_low, unit.contrast_high)]
    top = max(math.ceil(max(bounds, default=1.0)), 1)
    rows = [
        Row(
            unit.name,
            f"{unit.contrast:+.2f} [{unit.contrast_low:.2f}, {unit.contrast_high:.2f}]",
            (Mark("main", unit.contrast, unit.contrast_low, unit.contrast_high),),
        )
        for unit in fisher.units
    ]
    zones = (Zone("classification", -top, 0, "plain"), Zone("inversion", 0, top, "low"))
    axis = Axis(-top, top, (-top, -top / 2, 0, top / 2, top), "ratio", zones)
    description = "; ".join(f"{row.label}: {row.text}" for row in rows)
    return mark_chart(rows, axis, title="Contrast by unit", description=description)
