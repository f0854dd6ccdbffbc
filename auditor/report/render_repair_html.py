"""The repair report as one self-contained HTML file: before against after, paired by class."""

from __future__ import annotations

from typing import Any

from auditor.contracts.policy import Verdict
from auditor.contracts.repair import RepairReport
from auditor.contracts.scores import NotMeasured
from auditor.report.page import drawn, render_page
from auditor.report.repair_view import (
    HEURISTIC_COLUMNS,
    TRIAL_COLUMNS,
    TRIALS,
    attack_keys,
    chosen_candidate,
    difference_chart,
    frozen_proof,
    heuristic_rows,
    heuristic_text,
    lift_difference,
    repair_headline,
    repair_meaning,
    standing,
    trade_chart,
    trial_rows,
    utility_rows,
)
from auditor.report.wording import VERDICT_SIGN


def render_repair_html(report: RepairReport) -> str:
    """The page."""
    return render_page("repair.html.j2", **repair_context(report))


def repair_context(report: RepairReport) -> dict[str, Any]:
    """What the template shows.

    The banner takes the colour of the verdict after the repair; without one, of the verdict before.
    """
    verdict = report.verdict_after or report.verdict_before
    keys = attack_keys(report)
    effect = lift_difference(report)
    return dict(  # noqa: C408 - as long as it is, keywords read better
        report=report,
        verdict=verdict,
        verdict_sign=VERDICT_SIGN[verdict],
        headline=repair_headline(report),
        meaning=repair_meaning(report),
        passed=report.verdict_after is Verdict.PASS,
        chosen=chosen_candidate(report),
        costs=utility_rows(report),
        keys=keys,
        trades=[(key, drawn(trade_chart(report, key))) for key in keys],
        difference_chart=drawn(difference_chart(report)) if report.differences else "",
        effect=effect.difference if effect else NotMeasured(metric="lift", reason="nothing to compare"),
        heuristic_text=heuristic_text(report.heuristic) if report.heuristic else "",
        heuristic_columns=HEURISTIC_COLUMNS,
        heuristic_rows=heuristic_rows(report.heuristic) if report.heuristic else (),
        frozen=[frozen_proof(candidate) for candidate in report.candidates],
        trials_title=TRIALS,
        trial_columns=TRIAL_COLUMNS,
        trial_rows=trial_rows(report),
        standing=[standing(report, candidate) for candidate in report.candidates],
    )
