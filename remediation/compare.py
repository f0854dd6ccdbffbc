"""Before against after: the repair report. Pure arithmetic on stored values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence, Set
from types import MappingProxyType

from auditor.contracts.base import digest_of
from auditor.contracts.fisher import FisherReport
from auditor.contracts.manifest import RepairBudget
from auditor.contracts.outcome import AttackOutcome, OutcomeStatus
from auditor.contracts.repair import (
    HeuristicCheck,
    PairedDifference,
    RepairCandidate,
    RepairReport,
    RepairStart,
    TrainedCandidate,
)
from auditor.contracts.report import AuditReport
from auditor.contracts.scores import Measured, NotMeasured, Score
from auditor.evaluation.intervals import Bootstrap
from auditor.evaluation.paired import compare_reports
from auditor.report.build import sealed
from remediation.choice import choose, pareto_front, within_budget
from remediation.comparable import require_same_plan
from remediation.heuristic import check_heuristic
from remediation.offers import offer_of

Differences = tuple[PairedDifference, ...]
_FLATTERED = (
    "The differences under attacks that know the defense are of the quick plan, by which this candidate was chosen "
    "among {}: they flatter it a little. The verdict is that of the full audit."
)
_DROPPED = (
    "Of the {1} boundaries of the sweep {0} were trained to the end; the regret is over those, and the others were "
    "dropped after a part of the training and one picture a class."
)
_UNPROVED = "The full audit of the chosen candidate failed: the repair is not proved."


def audited_candidate(
    trained: TrainedCandidate, report: AuditReport, accuracy_before: Score, budget: RepairBudget
) -> RepairCandidate:
    """A trained boundary with its quick audit."""
    outcomes = _attacks_of(report)
    return RepairCandidate(
        freeze=trained.freeze,
        proposed_by=trained.proposed_by,
        best_epoch=trained.best_epoch,
        validation_accuracy=trained.validation_accuracy,
        heldout_accuracy=trained.heldout_accuracy,
        test_accuracy=trained.test_accuracy,
        within_budget=within_budget(accuracy_before, trained.heldout_accuracy, budget),
        report_id=report.id,
        lift={outcome.key: outcome.score("lift") for outcome in outcomes},
        both_agree={outcome.key: outcome.score("both_agree") for outcome in outcomes},
        evaluator_top1={outcome.key: outcome.score("evaluator_top1") for outcome in outcomes},
    )


def _attacks_of(report: AuditReport) -> list[AttackOutcome]:
    """Its attacks, without controls and what has nothing to work on in this model: that is not missing."""
    return [o for o in report.attacks if not o.is_control and o.status is not OutcomeStatus.INAPPLICABLE]


def repair_report(
    start: RepairStart,
    trained: Mapping[int, TrainedCandidate],
    quick_reports: Mapping[int, AuditReport],
    *,
    before: AuditReport,
    before_quick: AuditReport,
    after: AuditReport | None,
    budget: RepairBudget,
    trials: tuple[RepairCandidate, ...] = (),
    failed: Mapping[str, str] = MappingProxyType({}),
) -> RepairReport:
    """Assemble the comparison.

    Args:
        start: what every boundary started from.
        trained: candidates by boundary.
        quick_reports: their quick audits; a boundary whose audit failed is missing, and said so.
        before: the submission's full audit.
        before_quick: the submission under the quick plan.
        after: the chosen candidate under the full plan; None when none was chosen or its audit failed.
        budget: what the repair may cost.
        trials: boundaries of a sweep after a part of the training.
        failed: trainings and audits that failed, by unit, and why.

    Raises:
        InvalidInput: audits that cannot be compared.
    """
    for report in quick_reports.values():
        require_same_plan(before_quick, report)
    candidates = tuple(
        audited_candidate(trained[k], quick_reports[k], start.accuracy_before, budget) for k in sorted(quick_reports)
    )
    chosen, notes = choose(candidates)
    if after is not None:
        require_same_plan(before, after)
    kept = trained.get(chosen) if chosen is not None and after is not None else None
    adaptive: Differences = ()
    if chosen is not None and kept is not None:
        static, adaptive = quick_differences(start.defense, before_quick, quick_reports[chosen])
        averaged = {o.key for o in _attacks_of(quick_reports[chosen]) if o.adaptive}
        notes += hiding(static, adaptive, averaged)
    notes += tuple(_remarks(candidates, trials, chosen, is_kept=kept is not None))
    notes += tuple(_failures(trained, quick_reports, failed))
    content = {
        "start": start.model_dump(mode="json", exclude={"utility_before"}),  # a latency is never the same twice
        "candidates": [candidate.model_dump(mode="json") for candidate in candidates],
        "reports": [before.id, before_quick.id, after.id if after else None],
        "budget": budget.model_dump(mode="json"),
    }
    told = RepairReport(
        id=digest_of(content),
        defense=start.defense,
        paper=start.paper,
        before_report_id=before.id,
        before_quick_report_id=before_quick.id,
        after_report_id=after.id if after else None,
        budget=budget,
        parameters=start.parameters,
        accuracy_before=start.test_accuracy_before or start.accuracy_before,
        accuracy_after=(kept.test_accuracy or kept.heldout_accuracy) if kept else _unknown("heldout_accuracy"),
        utility_before=start.utility_before,
        utility_after=kept.utility if kept else None,
        pretraining=start.pretraining,
        weights_digest=start.weights_digest,
        seed=before.provenance.seed,
        data={card.role: card.digest for card in before.data},
        candidates=candidates,
        trials=trials,
        front=pareto_front(candidates),
        chosen=chosen if kept else None,
        unkept="" if kept else _why_unkept(trained, quick_reports, chosen, notes),
        quick_lift_before={outcome.key: outcome.score("lift") for outcome in _attacks_of(before_quick)},
        heuristic=_heuristic(before, before_quick, candidates, quick_reports),
        differences=compare_reports(before, after) if after else (),
        adaptive_differences=adaptive,
        verdict_before=before.verdict.verdict,
        verdict_after=after.verdict.verdict if after else None,
        policy_loosened=before.policy.loosened(),
        model_digest=kept.model_digest if kept else None,
        model_format=kept.model_format if kept else str(before.target.format),
        parity_max_abs_error=kept.parity_max_abs_error if kept else None,
        notes=(*start.notes, *notes, *(kept.notes if kept else _notes_of(trained))),
    )
    return sealed(told)


def _remarks(
    candidates: Sequence[RepairCandidate], trials: Sequence[RepairCandidate], chosen: int | None, *, is_kept: bool
) -> Iterator[str]:
    """What a reader of the differences has to know of how the candidate was found."""
    if is_kept and len(candidates) > 1:
        yield _FLATTERED.format(len(candidates))
    if chosen is not None and not is_kept:
        yield _UNPROVED
    if len(trials) > len(candidates):
        yield _DROPPED.format(len(candidates), len(trials))


def _failures(
    trained: Mapping[int, TrainedCandidate], reports: Mapping[int, AuditReport], failed: Mapping[str, str]
) -> Iterator[str]:
    unaudited = sorted(set(trained) - set(reports))
    if unaudited:
        yield f"The quick audit of boundary {', '.join(map(str, unaudited))} failed: not a candidate."
    yield from (f"{key} failed: {words}" for key, words in failed.items())


def _notes_of(trained: Mapping[int, TrainedCandidate]) -> tuple[str, ...]:
    return tuple(f"boundary {k}: {note}" for k, candidate in trained.items() for note in candidate.notes)


def _why_unkept(
    trained: Mapping[int, TrainedCandidate],
    reports: Mapping[int, AuditReport],
    chosen: int | None,
    notes: Sequence[str],
) -> str:
    if not trained:
        return "No candidate could be trained."
    if not reports:
        return "No candidate's audit succeeded."
    return _UNPROVED if chosen is not None else notes[0]


def quick_differences(defense: str, before: AuditReport, after: AuditReport) -> tuple[Differences, Differences]:
    """What the candidate changed under attacks that know nothing of the defense, and under those that know it."""
    known = {attack.key for attack in offer_of(defense).adaptive}
    shared = {o.key for o in _attacks_of(before)} & {o.key for o in _attacks_of(after)}
    rows = [row for row in compare_reports(before, after) if row.attack in shared]
    return tuple(r for r in rows if r.attack not in known), tuple(r for r in rows if r.attack in known)


def hiding(static: Differences, adaptive: Differences, averaged: Set[str] = frozenset()) -> tuple[str, ...]:
    """A remark where some attack finds provably less and one that sees through defenses does not, or gains far less.

    Args:
        static: under attacks that know nothing of the defense.
        adaptive: under those that know it.
        averaged: keys of `static` attacks that are made to see through defenses in general.
    """
    rows = [row for row in (*static, *adaptive) if row.metric == "lift"]
    seeing = [row for row in rows if row in adaptive or row.attack in averaged]
    blind = [row.difference for row in rows if row not in seeing and _proven(row)]
    lowered = max((score.low for score in blind if isinstance(score, Measured)), default=None)
    if lowered is None:
        return ()
    unmoved = [row.attack for row in seeing if not _proven(row) or _high(row) < lowered]
    if not unmoved:
        return ()
    return (
        f"Attacks that do not know the defense find less, but {', '.join(unmoved)}, which can see through it, is not "
        "proved to, or gains far less: the defense hides what the model knows more than it removes it.",
    )


def _high(row: PairedDifference) -> float:
    return row.difference.high if isinstance(row.difference, Measured) else -math.inf


def _proven(row: PairedDifference) -> bool:
    return isinstance(row.difference, Measured) and row.difference.low > 0


def _heuristic(
    before: AuditReport, quick: AuditReport, candidates: Sequence[RepairCandidate], reports: Mapping[int, AuditReport]
) -> HeuristicCheck | None:
    if not isinstance(before.fisher, FisherReport):
        return None
    return check_heuristic(before.fisher, candidates, reports, Bootstrap(quick.plan.n_bootstrap, quick.plan.seed))


def _unknown(metric: str) -> NotMeasured:
    return NotMeasured(metric=metric, reason="no repaired model was kept")
