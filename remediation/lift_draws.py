"""Lifts of several boundaries under the same resamples of the classes, from the per-class tables of their audits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from auditor.contracts.repair import RepairCandidate
from auditor.contracts.report import AuditReport
from auditor.evaluation.intervals import LIFT_LIMIT, Bootstrap, Floats, resampled_classes
from auditor.proportions import wilson


@dataclass(frozen=True)
class LiftDraws:
    """Lifts under resampled classes.

    Attributes:
        lifts: boundary to (B,) lifts under the worst attack; NaN where the ceiling does not exceed the control.
        resolution: the lift that no success among all classes still allows.
    """

    lifts: dict[int, Floats]
    resolution: float


def lift_draws(
    candidates: Sequence[RepairCandidate], reports: Mapping[int, AuditReport], bootstrap: Bootstrap
) -> LiftDraws | None:
    """Lifts of every candidate under the same resamples; None where a boundary's per-class table is missing."""
    tables = {
        (candidate.freeze.boundary, outcome.key): {row.label: row for row in outcome.per_class}
        for candidate in candidates
        if candidate.freeze.boundary in reports
        for outcome in reports[candidate.freeze.boundary].attacks
        if outcome.key in candidate.lift
    }
    labels = sorted(set.intersection(*(set(table) for table in tables.values()))) if tables else []
    if not labels or len(tables) < sum(len(candidate.lift) for candidate in candidates):
        return None
    weights = resampled_classes(len(labels), bootstrap.n_resamples, bootstrap.rng("heuristic"))
    found: dict[int, list[Floats]] = {}
    headrooms = []
    for (boundary, _), table in tables.items():
        rows = [table[label] for label in labels]
        both, control = (np.array([getattr(row, name) for row in rows]) for name in ("both", "control_both"))
        ceiling = np.array([np.nan if row.ceiling_both is None else row.ceiling_both for row in rows])
        known = np.isfinite(ceiling)
        share = weights @ known
        with np.errstate(divide="ignore", invalid="ignore"):
            headroom = weights @ np.where(known, ceiling, 0.0) / share - weights @ control
            lift = np.clip((weights @ both - weights @ control) / headroom, -LIFT_LIMIT, LIFT_LIMIT)
        found.setdefault(boundary, []).append(np.where(headroom > 1e-12, lift, np.nan))
        headrooms.append(float(np.nanmedian(headroom)))
    resolution = min(wilson(0.0, len(labels))[1] / max(min(headrooms), 1e-3), LIFT_LIMIT)
    return LiftDraws({k: np.max(lifts, axis=0) for k, lifts in found.items()}, resolution)


def settled(draws: Floats, worst: float) -> Floats:
    """`draws` with those that say nothing at `worst`, so that they widen an interval."""
    return np.where(np.isnan(draws), worst, draws)
