"""The tables of docs/results.md from a stored report.

    python -m benchmarks.result_tables REPORT.json

Prints the priors with their ceilings, and every attack with its rates, lift and queries, as Markdown. Who does not beat
the best-of-prior control of its own prior, or the prior-only control, is named below them: an attack wins where the
lower bound of its evaluator rate lies over the upper bound of the control's.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from auditor.contracts.cards import ClassifierCard, JudgeCard
from auditor.contracts.outcome import AttackOutcome
from auditor.contracts.report import AuditReport
from auditor.contracts.scores import Measured, Score


def percent(score: Score, *, bounds: bool = True) -> str:
    """`55 % [44, 66]`; `-` where not measured."""
    if not isinstance(score, Measured):
        return "-"
    value = f"{100 * score.value:.0f} %"
    return f"{value} [{100 * score.low:.0f}, {100 * score.high:.0f}]" if bounds else value


def ratio(score: Score) -> str:
    """`1.06 [0.83, 1.34]`."""
    return f"{score.value:.2f} [{score.low:.2f}, {score.high:.2f}]" if isinstance(score, Measured) else "-"


def number(score: Score, digits: int) -> str:
    """A bare value."""
    return f"{score.value:.{digits}f}" if isinstance(score, Measured) else "-"


def prior_rows(report: AuditReport) -> Iterable[tuple[str, ...]]:
    """One row per prior."""
    for prior in report.priors:
        yield (
            prior.name,
            percent(prior.ceiling_judge),
            percent(prior.ceiling_both),
            percent(prior.control_both, bounds=False),
            percent(prior.class_coverage, bounds=False),
            number(prior.kid, 2),
            f"{prior.target_queries:,}",
        )


def seconds_of(report: AuditReport, key: str) -> float:
    """Wall time of an attack, over its chunks of classes."""
    return sum(spent for unit, spent in report.provenance.seconds.items() if unit.startswith(f"attack/{key}/"))


def attack_row(outcome: AttackOutcome, seconds: float) -> tuple[str, ...]:
    """One attack or control."""
    once = f" + {outcome.shared_queries:,}" if outcome.shared_queries else ""
    return (
        outcome.key if not outcome.is_control else f"control: {outcome.attack}",
        str(outcome.access),
        outcome.prior,
        percent(outcome.score("evaluator_top1")),
        percent(outcome.score("evaluator_top5"), bounds=False),
        percent(outcome.score("judge_top1")),
        percent(outcome.score("both_agree")),
        ratio(outcome.score("lift")),
        number(outcome.score("knn_distance"), 0),
        f"{outcome.forward_queries:,}{once}",
        f"{seconds:.0f}",
    )


def losers(report: AuditReport) -> tuple[list[str], list[str]]:
    """Attacks that do not beat best-of-prior on their prior, and those that do not beat the prior-only control."""
    selected = {outcome.prior: outcome.score("evaluator_top1") for outcome in report.attacks if outcome.is_control}
    beside, chance = [], []
    for outcome in report.attacks:
        if not outcome.is_control and outcome.status.ran:
            own = outcome.score("evaluator_top1")
            beside += [] if _over(own, selected.get(outcome.prior)) else [outcome.key]
            chance += [] if _over(own, outcome.score("control_evaluator")) else [outcome.key]
    return beside, chance


def _over(own: Score, control: Score | None) -> bool:
    return isinstance(own, Measured) and isinstance(control, Measured) and own.low > control.high


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def main() -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    report = AuditReport.model_validate_json(parser.parse_args().report.read_text())
    if isinstance(report.evaluator, ClassifierCard):
        print(f"target: {percent(report.evaluator.target_heldout_accuracy)}")  # noqa: T201
        print(f"evaluator: {percent(report.evaluator.heldout_accuracy)}")  # noqa: T201
    if isinstance(report.judge, JudgeCard):
        print(f"judge: {percent(report.judge.heldout_top1)}, top-5 {percent(report.judge.heldout_top5)}")  # noqa: T201
    heads: tuple[str, ...] = ("prior", "ceiling: judge", "both", "control (both)", "classes covered", "KID", "queries")
    print("\n" + table(heads, prior_rows(report)) + "\n")  # noqa: T201
    heads = ("attack", "access", "prior", "evaluator top-1", "top-5", "judge top-1", "both agree", "lift R", "KNN")
    ordered = sorted(report.attacks, key=lambda outcome: outcome.is_control)
    rows = [attack_row(outcome, seconds_of(report, outcome.key)) for outcome in ordered]
    print(table((*heads, "queries (+ once)", "seconds"), rows) + "\n")  # noqa: T201
    beside, chance = losers(report)
    print(f"not over best-of-prior: {', '.join(beside) or 'none'}")  # noqa: T201
    print(f"not over the prior-only control: {', '.join(chance) or 'none'}")  # noqa: T201
    print(f"verdict: {report.verdict.verdict}, {report.verdict.level}")  # noqa: T201


if __name__ == "__main__":
    main()
