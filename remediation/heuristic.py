"""How well the Fisher scores chose: their boundary against all that were trained and audited (method card B.7).

Two figures, from contracts alone. A boundary's lift is that under its worst attack.

- Regret: the lift at the boundary that the scores propose minus the lowest lift of a boundary within the accuracy
  budget; in other words, the largest reduction of lift that could be had minus the one the scores had. 0: none of the
  boundaries tried was better. After a sweep those alone count that were trained to the end: one that its trial
  dropped cannot raise it.
- Mass correlation: Spearman's rank correlation over boundaries k between the inversion mass M(k) of the frozen units
  and the reduction of lift. M(k) grows with k, so its ranks are those of the depth: the figure says whether freezing
  more lowered the lift more, not whether the scores know the units at which it happens.

Intervals resample whole classes, the same ones at every boundary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from auditor.contracts.fisher import FisherReport
from auditor.contracts.repair import HeuristicCheck, HeuristicRow, RepairCandidate
from auditor.contracts.report import AuditReport
from auditor.contracts.scores import Measured, NotMeasured, Score
from auditor.evaluation.intervals import LIFT_LIMIT, Bootstrap, Floats, Interval
from auditor.evaluation.scoring import measured
from remediation.boundaries import mapped_boundary
from remediation.lift_draws import lift_draws, settled

FEWEST_BOUNDARIES = 3
"""Fewer have no rank correlation worth naming."""

Reports = Mapping[int, AuditReport]
"""The audit of each boundary."""


def check_heuristic(
    fisher: FisherReport, candidates: Sequence[RepairCandidate], reports: Reports, bootstrap: Bootstrap
) -> HeuristicCheck | None:
    """Both figures and what they come from; None where there is nothing to choose between."""
    if len(candidates) < 2:
        return None
    proposed = proposed_boundary(fisher, candidates[0].freeze.n_units)
    allowed = {k: lift for k, lift in _worst_lifts(candidates).items() if _within(candidates, k)}
    return HeuristicCheck(
        proposed=proposed,
        best=_best(allowed, proposed) if allowed else None,
        regret=regret(candidates, proposed, reports, bootstrap),
        correlation=mass_correlation(fisher, candidates, reports, bootstrap),
        rows=tuple(_row(fisher, candidate) for candidate in candidates),
        notes=(
            "The frozen inversion mass grows with the boundary: its rank correlation says whether freezing more "
            "lowered the lift more, not whether the scores know where.",
            "The scores were measured on the submitted model, which is another network than the repaired ones.",
        ),
    )


def proposed_boundary(fisher: FisherReport, n_units: int) -> int | None:
    """The boundary the scores propose for a network of `n_units`; None: they are uninformative."""
    if fisher.boundary is None:
        return None
    return mapped_boundary(fisher.boundary, len(fisher.units), n_units)


def frozen_mass(shares: Sequence[float], boundary: int, n_units: int) -> float:
    """Mass, in [0, 1], of the first `boundary` of `n_units` units; by depth where the scores know another number."""
    depth = np.linspace(0.0, 1.0, len(shares) + 1)
    return float(np.interp(boundary / n_units, depth, np.concatenate([[0.0], np.cumsum(shares)])))


def regret(
    candidates: Sequence[RepairCandidate], proposed: int | None, reports: Reports, bootstrap: Bootstrap
) -> Score:
    """Lift at the proposed boundary minus the lowest lift within the budget, at least 0.

    The lower bound compares with the boundary that is best on the data, the upper bound with the best of each resample,
    so neither is too sure of which one is best. Without per-class tables the bounds are those that the lifts' own
    intervals allow.
    """
    lifts = {k: lift for k, lift in _worst_lifts(candidates).items() if _within(candidates, k)}
    reason = _no_regret(candidates, proposed, lifts)
    if reason or proposed is None:
        return NotMeasured(metric="regret", reason=reason)
    chosen, best = lifts[proposed], _best(lifts, proposed)
    value = chosen.value - lifts[best].value
    draws = lift_draws([c for c in candidates if c.freeze.boundary in lifts], reports, bootstrap)
    if draws is None:
        low, high = chosen.low - lifts[best].high, chosen.high - min(lift.low for lift in lifts.values())
    else:
        low = float(np.quantile(settled(draws.lifts[proposed] - draws.lifts[best], -LIFT_LIMIT), 0.025))
        lowest = np.min(list(draws.lifts.values()), axis=0)
        above = settled(draws.lifts[proposed] - lowest, LIFT_LIMIT)
        high = float(np.quantile(above, 0.975)) if np.ptp(above) > 0 else draws.resolution
    interval = Interval(value, min(max(low, 0.0), value), max(high, value))
    return measured("regret", interval, len(lifts), unit="ratio")


def _best(lifts: Mapping[int, Measured], proposed: int | None) -> int:
    """The boundary with the lowest lift; among equals the proposed one, else the smallest."""
    return min(lifts, key=lambda k: (lifts[k].value, k != proposed, k))


def _no_regret(candidates: Sequence[RepairCandidate], proposed: int | None, lifts: Mapping[int, Measured]) -> str:
    """Why there is no regret to speak of; empty: there is."""
    if proposed is None:
        return "the scores single out no boundary"
    if proposed not in {candidate.freeze.boundary for candidate in candidates}:
        return f"boundary {proposed}, which the scores propose, was not tried"
    if not _within(candidates, proposed):
        return f"boundary {proposed}, which the scores propose, costs more accuracy than the budget allows"
    if proposed not in lifts:
        return f"the lift at boundary {proposed}, which the scores propose, was not measured"
    return "" if len(lifts) > 1 else "no other boundary within the budget was measured"


def mass_correlation(
    fisher: FisherReport, candidates: Sequence[RepairCandidate], reports: Reports, bootstrap: Bootstrap
) -> Score:
    """Spearman's correlation over boundaries between frozen inversion mass and reduction of lift, in [-1, 1]."""
    lifts = _worst_lifts(candidates)
    tried = [candidate for candidate in candidates if candidate.freeze.boundary in lifts]
    if len(tried) < FEWEST_BOUNDARIES:
        return NotMeasured(metric="mass_correlation", reason=f"fewer than {FEWEST_BOUNDARIES} boundaries were measured")
    mass = np.array([_mass(fisher, candidate, "inversion_share") for candidate in tried])
    value = spearman(mass, -np.array([lifts[c.freeze.boundary].value for c in tried]))
    if value is None:
        return NotMeasured(metric="mass_correlation", reason="the lift or the mass is the same at every boundary")
    low, high = -1.0, 1.0
    draws = lift_draws(tried, reports, bootstrap)
    if draws is not None:
        drawn = np.stack([draws.lifts[c.freeze.boundary] for c in tried], axis=1)
        found = [None if np.isnan(row).any() else spearman(mass, -row) for row in drawn]
        low = float(np.quantile([-1.0 if r is None else r for r in found], 0.025))
        high = float(np.quantile([1.0 if r is None else r for r in found], 0.975))
    interval = Interval(value, min(low, value), max(high, value))
    return measured("mass_correlation", interval, len(tried), unit="ratio", higher_is_riskier=False)


def spearman(x: Floats, y: Floats) -> float | None:
    """Rank correlation of two (N,) arrays, ties at their mean rank; None where one of them is constant."""
    first, second = _ranks(x), _ranks(y)
    spread = float(first.std() * second.std())
    return None if spread == 0 else float(((first - first.mean()) * (second - second.mean())).mean() / spread)


def _ranks(x: Floats) -> Floats:
    ranks: Floats = (x[:, None] > x).sum(axis=1) + 0.5 * (x[:, None] == x).sum(axis=1)
    return ranks


def _within(candidates: Sequence[RepairCandidate], boundary: int) -> bool:
    return any(c.within_budget for c in candidates if c.freeze.boundary == boundary)


def _worst_lifts(candidates: Sequence[RepairCandidate]) -> dict[int, Measured]:
    """Lift under the worst attack, by boundary, where it was measured under every one."""
    found: dict[int, Measured] = {}
    for candidate in candidates:
        lifts = [lift for lift in candidate.lift.values() if isinstance(lift, Measured)]
        if lifts and len(lifts) == len(candidate.lift):
            found[candidate.freeze.boundary] = max(lifts, key=lambda lift: lift.value)
    return found


def _mass(fisher: FisherReport, candidate: RepairCandidate, task: str) -> float:
    shares = [getattr(unit, task).get(fisher.aggregator, 0.0) for unit in fisher.units]
    return frozen_mass(shares, candidate.freeze.boundary, candidate.freeze.n_units)


def _row(fisher: FisherReport, candidate: RepairCandidate) -> HeuristicRow:
    k = candidate.freeze.boundary
    unknown = NotMeasured(metric="lift", reason="not measured under every attack")
    return HeuristicRow(
        boundary=k,
        inversion_mass=_mass(fisher, candidate, "inversion_share"),
        classification_mass=_mass(fisher, candidate, "classification_share"),
        lift=_worst_lifts([candidate]).get(k, unknown),
        within_budget=candidate.within_budget,
    )
