"""Before against after: which candidate to keep, and the repair report. Pure arithmetic on stored values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence, Set
from types import MappingProxyType

from auditor.contracts.base import digest_of
from auditor.contracts.fisher import FisherReport
from auditor.contracts.manifest import RepairBudget
from auditor.contracts.outcome import AttackOutcome, OutcomeStatus
from auditor.contracts.prepared import PreparedAudit
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
from auditor.errors import InvalidInput
from auditor.evaluation.intervals import Bootstrap
from auditor.evaluation.paired import compare_reports, plan_differences
from remediation.heuristic import check_heuristic
from remediation.offers import offer_of

_RANKED_BY = ("lift", "both_agree", "evaluator_top1")
"""What a candidate is judged by: the first of these that every candidate has for every attack."""
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
_TIE = 0.05
"""Upper bounds this near to each other are equal: intervals are several times wider."""


def require_same_plan(before: AuditReport, after: AuditReport) -> None:
    """Refuse two reports that cannot be compared.

    Raises:
        InvalidInput: another plan or seed, other data, evaluator, judge or priors; all differences listed. The audit
            after may have attacks beside those before, and priors that are made for a target are each model's own.
    """
    pairs = {
        "the plan": ([], plan_differences(before, after)),
        "the seed": (before.provenance.seed, after.provenance.seed),
        "the data": (before.provenance.data_digest, after.provenance.data_digest),
    }
    different = [what for what, (old, new) in pairs.items() if old != new] + _other_measures(before, after)
    if {prior.name for prior in before.priors} != {prior.name for prior in after.priors}:
        different = list(dict.fromkeys((*different, "the priors")))
    if different:
        raise InvalidInput(
            f"the audits before and after the repair cannot be compared: {', '.join(different)} differ",
            remedy="Audit both models with one plan, one seed and the same data.",
        )


def require_same_measures(before: AuditReport, prepared: PreparedAudit) -> None:
    """Refuse, before anything is trained, a repair whose audits could not be compared with the one before.

    Raises:
        InvalidInput: evaluator, judge or priors came out differently here.
    """
    if different := _other_measures(before, prepared):
        raise InvalidInput(
            f"the repair could not be compared with the audit before: {', '.join(different)} came out differently here",
            remedy="Training repeats exactly on the same kind of machine with the same number of threads and the same "
            "version. Audit the model again here (`auditor submit --fresh`), and repair that audit.",
        )


def _other_measures(before: AuditReport, other: AuditReport | PreparedAudit) -> list[str]:
    """What the two were not measured by alike: evaluator, judge, priors that both have and that fit every target."""
    own = {prior.name: prior.digest for prior in before.priors if not prior.target_queries}
    pairs = {
        "the evaluator": (_digest(before.evaluator), _digest(other.evaluator)),
        "the judge": (_digest(before.judge), _digest(other.judge)),
        "the priors": (own, own | {p.name: p.digest for p in other.priors if p.name in own}),
    }
    return [what for what, (old, new) in pairs.items() if old != new]


def _digest(card: object) -> str | None:
    return getattr(card, "digest", None)


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


def within_budget(before: Score, after: Score, budget: RepairBudget) -> bool:
    """Whether the held-out accuracy fell by no more than allowed; unknown accuracy is not within it."""
    if not isinstance(before, Measured) or not isinstance(after, Measured):
        return False
    return before.value - after.value <= budget.max_accuracy_loss + 1e-9


def choose(candidates: Sequence[RepairCandidate]) -> tuple[int | None, tuple[str, ...]]:
    """Boundary of the best candidate within the budget, and remarks.

    The best has the smallest upper bound under its worst attack; among those too near to each other to be told apart,
    the most accurate. Lift where it was measured for all, else the both-agree rate, else the evaluator's; a candidate
    with an unmeasured attack cannot win over one without.
    """
    allowed = [candidate for candidate in candidates if candidate.within_budget]
    if not allowed:
        return None, ("No boundary stayed within the accuracy budget.",)
    for metric in _RANKED_BY:
        risks = {c.freeze.boundary: _worst(getattr(c, metric)) for c in allowed}
        known = [c for c in allowed if risks[c.freeze.boundary] is not None]
        if known:
            lowest = min(risk for risk in risks.values() if risk is not None)
            tied = [c for c in known if (risks[c.freeze.boundary] or 0.0) <= lowest + _TIE]
            best = max(tied, key=lambda c: (_value(c.heldout_accuracy), c.freeze.boundary))
            notes = [] if metric == "lift" else [f"No candidate's lift could be measured; chosen by {metric} instead."]
            unknown = [str(c.freeze.boundary) for c in allowed if c not in known]
            if unknown:
                notes.append(f"Not ranked, since an attack on them could not be judged: boundary {', '.join(unknown)}.")
            return best.freeze.boundary, tuple(notes)
    return None, ("No candidate within the budget could be judged under every attack, so none was chosen.",)


def better_third(trials: Sequence[RepairCandidate], max_loss: float, *, always: Sequence[int] = ()) -> tuple[int, ...]:
    """Boundaries of a sweep that deserve the whole training, ascending: a third of them, three at least.

    Those come first whose accuracy is at most `max_loss`, the budget, behind the most accurate trial: the others will
    hardly end within it. Among them the Pareto front of accuracy against leak, then the front of the rest, and so on;
    of a front its ends, then what lies farthest from all that was taken, since a little training and one picture a
    class tell neighbours badly apart. What could not be judged comes last.
    """
    leader = max((_value(c.heldout_accuracy) for c in trials), default=0.0)
    near = [c for c in trials if leader - _value(c.heldout_accuracy) <= max_loss + 1e-9]
    order = [*_by_fronts(near), *_by_fronts([c for c in trials if c not in near])]
    n_kept = max(3, -(-len(order) // 3))
    return tuple(sorted({*order[:n_kept], *(k for k in always if k in order)}))


def _by_fronts(trials: Sequence[RepairCandidate]) -> list[int]:
    waiting, order = {c.freeze.boundary: c for c in trials}, list[int]()
    while waiting:
        front = pareto_front(tuple(waiting.values())) or tuple(waiting)
        order += _spread(sorted(front, key=lambda k: (-_value(waiting[k].heldout_accuracy), k)))
        waiting = {k: trial for k, trial in waiting.items() if k not in front}
    return order


def _spread(rows: Sequence[int]) -> list[int]:
    """The last row, the first, then always the one farthest from those taken."""
    places = list(range(len(rows)))
    taken = list(dict.fromkeys((places[-1], places[0])))
    while len(taken) < len(places):
        left = [place for place in places if place not in taken]
        taken.append(max(left, key=lambda place: min(abs(place - other) for other in taken)))
    return [rows[place] for place in taken]


def pareto_front(candidates: Sequence[RepairCandidate]) -> tuple[int, ...]:
    """Boundaries to which no other is better in accuracy and in what they leak at once, ascending.

    What they leak is the upper bound under the worst attack, of the first of `_RANKED_BY` that was measured. What could
    not be judged under every attack is not on it.
    """
    for metric in _RANKED_BY:
        rows = {c.freeze.boundary: (_value(c.heldout_accuracy), _worst(getattr(c, metric))) for c in candidates}
        known = {k: (accuracy, leak) for k, (accuracy, leak) in rows.items() if leak is not None}
        if known:
            return tuple(sorted(k for k in known if not any(_dominates(o, known[k]) for o in known.values())))
    return ()


def _dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
    """Whether (accuracy, leak) `a` is at least as good as `b` in both, and better in one."""
    return a[0] >= b[0] and a[1] <= b[1] and a != b


def _worst(scores: Mapping[str, Score]) -> float | None:
    """Largest upper bound over the attacks; None when one of them, or all, were not measured."""
    highs = [score.high if isinstance(score, Measured) else None for score in scores.values()]
    if not highs or None in highs:
        return None
    return max(high for high in highs if high is not None)


def _value(score: Score) -> float:
    return score.value if isinstance(score, Measured) else 0.0


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
        if len(candidates) > 1:
            notes += (_FLATTERED.format(len(candidates)),)
    if chosen is not None and after is None:
        notes += (_UNPROVED,)
    if trials and len(trials) > len(candidates):
        notes += (_DROPPED.format(len(candidates), len(trials)),)
    notes += tuple(_failures(trained, quick_reports, failed))
    content = {
        "start": start.model_dump(mode="json", exclude={"utility_before"}),  # a latency is never the same twice
        "candidates": [candidate.model_dump(mode="json") for candidate in candidates],
        "reports": [before.id, before_quick.id, after.id if after else None],
        "budget": budget.model_dump(mode="json"),
    }
    return RepairReport(
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
        model_digest=kept.model_digest if kept else None,
        model_format=kept.model_format if kept else str(before.target.format),
        parity_max_abs_error=kept.parity_max_abs_error if kept else None,
        notes=(*start.notes, *notes, *(kept.notes if kept else _notes_of(trained))),
    )


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
