"""What a repair report shows: the sentence it amounts to, its candidates, and its paired differences."""

from __future__ import annotations

from collections.abc import Sequence

from auditor.contracts.policy import Verdict
from auditor.contracts.repair import HeuristicCheck, PairedDifference, RepairCandidate, RepairReport
from auditor.contracts.scores import Measured, Score
from auditor.report.charts import Axis, Mark, Point, Row, Zone, mark_chart, scatter_chart
from auditor.report.wording import VERDICT_WORD, percent, quantity, score_text

HEURISTIC_COLUMNS = ("Boundary", "Inversion mass frozen", "Classification mass frozen", "Lift, worst attack", "Budget")

TRIALS = "Tried with a part of the training"
TRIAL_COLUMNS = ("Boundary", "Accuracy", "Lift", "Then")


def chosen_candidate(report: RepairReport) -> RepairCandidate | None:
    """The candidate that was kept; None when none stayed within the budget."""
    return next((item for item in report.candidates if item.freeze.boundary == report.chosen), None)


def repair_headline(report: RepairReport) -> str:
    """`FAIL → INCONCLUSIVE`, or that there is no repaired model."""
    before = VERDICT_WORD[report.verdict_before].upper()
    after = VERDICT_WORD[report.verdict_after].upper() if report.verdict_after else "no repaired model"
    return f"{before} → {after}"


def repair_meaning(report: RepairReport) -> str:
    """What the repair did, in one or two sentences that claim no more than the intervals do."""
    chosen = chosen_candidate(report)
    if chosen is None:
        loss = report.budget.max_accuracy_loss
        why = report.unkept or "No boundary stayed within the accuracy budget."
        return f"{why} Nothing was repaired; it might have cost at most {100 * loss:g} points of accuracy."
    done = f"Freezing the first {chosen.freeze.boundary} of {chosen.freeze.n_units} units"
    if not chosen.freeze.boundary:
        done = f"Training with {report.defense}"
    effect = lift_difference(report)
    if effect is None or not isinstance(effect.difference, Measured):
        told = f"{done} has an effect on the lift that could not be measured."
    elif effect.difference.low > 0:
        told = f"{done} lowered the lift by {score_text(effect.difference)} under {effect.attack}."
    elif effect.difference.high < 0:
        worse = abs(effect.difference.value)
        told = f"{done} raised the lift by {worse:.2f} under {effect.attack}: the repair made it worse."
    else:
        told = f"{done} has no proven effect on the lift: {score_text(effect.difference)} under {effect.attack}."
    if report.verdict_after is Verdict.PASS:
        told += " By its policy the audit after it passes."
    if report.policy_loosened:
        told += f" The policy is looser than the built-in one: {'; '.join(report.policy_loosened)}."
    return told


def lift_difference(report: RepairReport) -> PairedDifference | None:
    """The smallest proven gain in lift: a repair is worth what its worst attack says, also one that knows it."""
    rows = (*report.adaptive_differences, *report.differences)
    found = [item for item in rows if item.metric == "lift" and not item.attack.startswith("control/")]
    return min(
        found, key=lambda item: item.difference.low if isinstance(item.difference, Measured) else -1e9, default=None
    )


def utility_rows(report: RepairReport) -> list[tuple[str, str, str]]:
    """What the repair cost its users: figure, before, after; empty where nothing was kept."""
    before, after = report.utility_before, report.utility_after
    if before is None or after is None:
        return []
    rows = [("Accuracy", score_text(report.accuracy_before), score_text(report.accuracy_after))]
    rows += [
        (f"Accuracy under changes of {size} per pixel", score_text(score), score_text(after.robust_accuracy[size]))
        for size, score in before.robust_accuracy.items()
        if size in after.robust_accuracy
    ]
    return [
        *rows,
        ("Calibration error", f"{before.calibration_error:.3f}", f"{after.calibration_error:.3f}"),
        ("Latency of one image", f"{before.latency_ms:.2f} ms", f"{after.latency_ms:.2f} ms"),
        ("File", f"{before.size_bytes / 2**20:.2f} MiB", f"{after.size_bytes / 2**20:.2f} MiB"),
    ]


def heuristic_text(check: HeuristicCheck) -> str:
    """What the boundaries tried say about the Fisher scores, in sentences."""
    if isinstance(check.regret, Measured):
        best = "which is the best" if check.proposed == check.best else f"the best is {check.best}"
        told = (
            f"The Fisher scores propose boundary {check.proposed}; of {check.regret.n} boundaries within the budget "
            f"{best}. Regret: {score_text(check.regret)} of lift."
        )
    else:
        told = f"Regret of the Fisher proposal: not measured ({check.regret.reason})."
    if isinstance(check.correlation, Measured):
        return (
            f"{told} Rank correlation of frozen inversion mass and reduction of lift: {score_text(check.correlation)} "
            f"over {check.correlation.n} boundaries."
        )
    return f"{told} Rank correlation of frozen inversion mass: not measured ({check.correlation.reason})."


def heuristic_rows(check: HeuristicCheck) -> tuple[tuple[str, ...], ...]:
    """Texts of `HEURISTIC_COLUMNS` for every boundary tried."""
    return tuple(
        (
            str(row.boundary) + (" (proposed)" if row.boundary == check.proposed else ""),
            percent(row.inversion_mass),
            percent(row.classification_mass),
            score_text(row.lift),
            "within" if row.within_budget else "over",
        )
        for row in check.rows
    )


def trial_rows(report: RepairReport) -> tuple[tuple[str, ...], ...]:
    """Texts of `TRIAL_COLUMNS` for every boundary of a sweep after a part of the training."""
    kept = {item.freeze.boundary for item in report.candidates}
    return tuple(
        (
            f"{item.freeze.boundary} of {item.freeze.n_units}",
            score_text(item.accuracy),
            "; ".join(f"{key} {score_text(score)}" for key, score in item.lift.items()),
            "trained to the end" if item.freeze.boundary in kept else "dropped",
        )
        for item in report.trials
    )


def frozen_proof(candidate: RepairCandidate) -> str:
    """Whether the frozen parameters and buffers are bit-identical before and after."""
    freeze = candidate.freeze
    if not freeze.digest_before or not freeze.digest_after:
        return "not proved"
    return "unchanged" if freeze.digest_before == freeze.digest_after else "CHANGED"


def standing(report: RepairReport, candidate: RepairCandidate) -> str:
    """Where a candidate stands: within the budget or over it, and whether it is on the Pareto front."""
    budget = "within" if candidate.within_budget else "over"
    return f"{budget}, on the front" if candidate.freeze.boundary in report.front else budget


def attack_keys(report: RepairReport) -> list[str]:
    """Attacks that any candidate was audited with, in order of appearance."""
    return list(dict.fromkeys(key for item in report.candidates for key in item.lift))


def difference_chart(report: RepairReport) -> str:
    """Before minus after of a repair."""
    return paired_chart(report.differences)


def paired_chart(differences: Sequence[PairedDifference]) -> str:
    """Before minus after for every attack and metric, with paired intervals; right of 0 is an improvement."""
    shown = [item for item in differences if isinstance(item.difference, Measured) and item.metric != "knn_distance"]
    rows = []
    for item in shown:
        score = item.difference
        if isinstance(score, Measured):
            rows.append(
                Row(
                    f"{item.attack}: {item.metric}",
                    score_text(score),
                    (Mark("main", score.value, score.low, score.high),),
                )
            )
    ends = [
        abs(end)
        for item in shown
        if isinstance(item.difference, Measured)
        for end in (item.difference.low, item.difference.high)
    ]
    top = min(max([0.1, *ends]), 1.5)
    top = 0.1 * -(-top // 0.1)
    zones = (Zone("worse", -top, 0, "critical"), Zone("better", 0, top, "low"))
    halves = (-top / 2, top / 2) if round(5 * top, 6) % 1 == 0 else ()
    axis = Axis(-top, top, tuple(sorted((-top, 0, top, *halves))), "ratio", zones)
    text = "; ".join(f"{row.label}: {row.text}" for row in rows)
    return mark_chart(rows, axis, title="Before minus after, paired by class", description=text)


def trade_chart(report: RepairReport, key: str) -> str:
    """Accuracy against lift at every boundary tried, for one attack; the submitted model beside them."""
    points = []
    before = report.quick_lift_before.get(key) or _before(report, key)
    start = _point("submitted", report.accuracy_before, before, "before")
    points += [start] if start else []
    for item in report.candidates:
        style = "chosen" if item.freeze.boundary == report.chosen else ""
        point = _point(f"{item.freeze.boundary} frozen", item.accuracy, item.lift.get(key), style)
        points += [point] if point else []
    lows, highs = [p.x[1] for p in points], [p.x[2] for p in points]
    left = max(0.1 * (min(lows, default=0.0) // 0.1), 0.0)
    right = min(0.1 * -(-max(highs, default=1.0) // 0.1), 1.0)
    x_axis = Axis(left, max(right, left + 0.1), _steps(left, max(right, left + 0.1)), "frac")
    top = min(max(0.2, *(p.y[2] for p in points), 0.2), 1.5)
    top = 0.2 * -(-top // 0.2)
    low = -0.2 if any(p.y[1] < -0.02 for p in points) else 0.0
    y_axis = Axis(low, top, _steps(low, top, 0.2), "ratio")
    text = "; ".join(f"{p.label}: accuracy {p.x[0]:.3f}, lift {p.y[0]:.2f}" for p in points)
    return scatter_chart(
        points,
        x_axis,
        y_axis,
        x_name="held-out accuracy",
        y_name="lift R",
        title=f"Accuracy and lift under {key}",
        description=text,
    )


def _before(report: RepairReport, key: str) -> Score | None:
    return next((item.before for item in report.differences if item.attack == key and item.metric == "lift"), None)


def _point(label: str, accuracy: Score, lift: Score | None, style: str) -> Point | None:
    if not isinstance(accuracy, Measured) or not isinstance(lift, Measured):
        return None
    x, y = ((score.value, score.low, score.high) for score in (accuracy, lift))
    return Point(f"{label} · {quantity(accuracy.value, 'frac')}, R {lift.value:.2f}", x, y, style)


def _steps(low: float, high: float, step: float = 0.1) -> tuple[float, ...]:
    return tuple(round(low + step * k, 2) for k in range(round((high - low) / step) + 1))
