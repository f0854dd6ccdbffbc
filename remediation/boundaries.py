"""Which boundaries a repair tries: the one the Fisher scores propose, and depth quantiles beside it.

The Fisher scores are a search heuristic measured on another model than the repaired one, so they never stand alone:
every candidate is trained and audited.
"""

from __future__ import annotations

from collections.abc import Sequence

from auditor.contracts.fisher import FisherReport
from auditor.errors import InvalidInput
from auditor.fisher.contrast import depth_quantiles

MAX_SWEPT = 12
"""Boundaries of a sweep at most, the Fisher scores' beside them."""
_QUANTILES = (0.3, 0.7, 0.5, 0.85, 0.15)
"""In order of preference."""


def candidate_boundaries(
    n_units: int, fisher: FisherReport | None, *, n_wanted: int = 3, given: Sequence[int] = ()
) -> dict[int, str]:
    """Boundaries to try, ascending, and who proposed each: `fisher`, `quantile` or `user`.

    Args:
        n_units: units of the network that is retrained.
        fisher: layer scores of the submission; None, or uninformative: depth alone decides. Its boundaries are mapped
            by depth when the submitted graph was cut into another number of units.
        n_wanted: how many; a small network may have fewer.
        given: named by the user; then these alone.

    Raises:
        InvalidInput: a given boundary does not exist, or the network has nothing to freeze.
    """
    if n_units < 2:
        raise InvalidInput("the network is a single unit: there is no layer to freeze before its head")
    if given:
        bad = sorted(k for k in set(given) if not 0 <= k <= n_units - 1)
        if bad:
            raise InvalidInput(f"boundaries {bad} are outside 0..{n_units - 1}, the units of this network")
        return dict.fromkeys(sorted(set(given)), "user")
    found: dict[int, str] = {}
    if fisher is not None and fisher.boundary is not None:
        found[mapped_boundary(fisher.boundary, len(fisher.units), n_units)] = "fisher"
    spare = [mapped_boundary(k, len(fisher.units), n_units) for k in fisher.candidates] if found and fisher else []
    others = [*depth_quantiles(n_units, _QUANTILES), *spare, *range(1, n_units)]
    for k in others:
        if len(found) >= n_wanted:
            break
        found.setdefault(k, "quantile")
    return dict(sorted(found.items()))


def sweep_boundaries(n_units: int, fisher: FisherReport | None) -> dict[int, str]:
    """Every boundary from 0 on, at most `MAX_SWEPT` spread over the depth, and the Fisher scores' among them."""
    step = max(1.0, (n_units - 1) / (MAX_SWEPT - 1))
    found = dict.fromkeys({round(step * i) for i in range(MAX_SWEPT) if round(step * i) <= n_units - 1}, "sweep")
    if fisher is not None and fisher.boundary is not None:
        found[mapped_boundary(fisher.boundary, len(fisher.units), n_units)] = "fisher"
    return dict(sorted(found.items()))


def mapped_boundary(boundary: int, of: int, n_units: int) -> int:
    """The boundary at the same share of the depth."""
    return min(n_units - 1, max(1, boundary if of == n_units else round(boundary / of * n_units)))
