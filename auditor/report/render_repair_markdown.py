"""The repair report as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from auditor.contracts.policy import Verdict
from auditor.contracts.repair import PairedDifference, RepairReport
from auditor.report.markdown import bullets, folded, plain, table
from auditor.report.repair_view import (
    HEURISTIC_COLUMNS,
    TRIAL_COLUMNS,
    TRIALS,
    attack_keys,
    frozen_proof,
    heuristic_rows,
    heuristic_text,
    repair_headline,
    repair_meaning,
    standing,
    trial_rows,
    utility_rows,
)
from auditor.report.wording import PASS_CAVEAT, VERDICT_SIGN, score_text


def render_repair_markdown(report: RepairReport) -> str:
    """Verdict before and after, the paired differences, and every boundary tried."""
    verdict = report.verdict_after or report.verdict_before
    lines = [
        f"## {VERDICT_SIGN[verdict]} {repair_headline(report)}: {plain(report.defense)}",
        "",
        f"**{plain(repair_meaning(report))}**" + (f" {PASS_CAVEAT}" if report.verdict_after is Verdict.PASS else ""),
        "",
        f"Accuracy {score_text(report.accuracy_before)} before, {score_text(report.accuracy_after)} after.",
        "",
    ]
    if report.adaptive_differences:
        lines += ["### What it changed for attackers who know it", "", *_differences(report.adaptive_differences), ""]
    if report.differences:
        lines += ["### What it changed for the attacks before", "", *_differences(report.differences), ""]
    if costs := utility_rows(report):
        lines += ["### What it cost", "", *table(("", "Before", "After"), costs, numeric_from=1), ""]
    lines += ["### Boundaries tried", "", *_candidates(report), ""]
    if report.trials:
        lines += [f"### {TRIALS}", "", *table(TRIAL_COLUMNS, trial_rows(report), numeric_from=1), ""]
    if report.heuristic is not None:
        lines += ["### Did the Fisher scores choose well", "", plain(heuristic_text(report.heuristic)), ""]
        lines += [*table(HEURISTIC_COLUMNS, heuristic_rows(report.heuristic)), "", *bullets(report.heuristic.notes), ""]
    identifiers = [
        ("Repair", report.id),
        ("Audit before", report.before_report_id),
        ("Quick audit before", report.before_quick_report_id),
        ("Audit after", report.after_report_id or "none"),
        ("Repaired file", report.model_digest or "none"),
    ]
    lines += folded("Provenance", table(("What", "Id"), identifiers, numeric_from=2))
    lines += ["", *bullets(report.notes)]
    return "\n".join(lines).rstrip() + "\n"


def _differences(items: Sequence[PairedDifference]) -> list[str]:
    rows = [
        (item.attack, item.metric, score_text(item.before), score_text(item.after), score_text(item.difference))
        for item in items
    ]
    return table(("Attack", "Metric", "Before", "After", "Before minus after"), rows, numeric_from=2)


def _candidates(report: RepairReport) -> list[str]:
    keys = attack_keys(report)
    rows = [
        (
            f"{item.freeze.boundary} of {item.freeze.n_units}"
            + (" (chosen)" if item.freeze.boundary == report.chosen else ""),
            item.proposed_by,
            frozen_proof(item),
            standing(report, item),
            score_text(item.accuracy),
            *(score_text(item.lift[key]) if key in item.lift else "not audited" for key in keys),
        )
        for item in report.candidates
    ]
    head = ("Boundary", "Proposed by", "Frozen part", "Budget", "Accuracy", *(f"Lift, {plain(key)}" for key in keys))
    return table(head, rows, numeric_from=4)
