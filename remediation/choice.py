"""Which boundary to keep: the accuracy budget, the Pareto front, and the third of a sweep that goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from auditor.contracts.manifest import RepairBudget
from auditor.contracts.repair import RepairCandidate
from auditor.contracts.scores import Measured, Score

_RANKED_BY = ("lift", "both_agree", "evaluator_top1")
"""What a candidate is judged by: the first of these that every candidate has for every attack."""
_TIE = 0.05
"""Upper bounds this near to each other are equal: intervals are several times wider."""


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
