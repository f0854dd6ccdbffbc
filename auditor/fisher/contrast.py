"""From shares to a boundary: contrast, depth gap, intervals over classes, candidates (method card B.6 and B.7).

The samples of one class are not independent, so whole classes are resampled, for inversion and for classification
independently. The gap's interval is taken at the boundary found on the data, not re-maximised in each resample: a
maximum over noisy profiles is positive even where there is nothing to find.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from auditor.fisher.shares import Matrix, normalise

UNINFORMATIVE_GAP = 0.05
"""Lower bound of the gap at or under which the profile recommends nothing."""
MIN_CLASSIFICATION_LEFT = 0.5
"""tau: share of the classification mass that the constrained boundary leaves tunable."""
CLASSIFICATION_WEIGHTS = (0.5, 1.0, 2.0)
"""lambda: how much a frozen share of the classification mass counts against one of the inversion mass."""
_INFORMATIVE_QUANTILES = (0.3, 0.7)
_DEFAULT_QUANTILES = (0.3, 0.5, 0.7, 0.85)


@dataclass(frozen=True)
class Profile:
    """A depth profile with its resamples.

    Attributes:
        shares: (U,) shares on the data.
        resampled: (B, U) shares on each resample of the classes.
    """

    shares: Matrix
    resampled: Matrix


@dataclass(frozen=True)
class Gap:
    """max over k of inversion mass minus classification mass in the first k units, with its 95 % interval."""

    value: float
    low: float
    high: float
    boundary: int
    """k at the maximum, in 1..U-1."""

    @property
    def informative(self) -> bool:
        """Whether the lower bound is over the threshold."""
        return self.low > UNINFORMATIVE_GAP


def resamples(n_clusters: int, n_bootstrap: int, generator: torch.Generator) -> Matrix:
    """(B, G) how often each class is drawn in each resample with replacement."""
    drawn = torch.randint(n_clusters, (n_bootstrap, n_clusters), generator=generator)
    counts: Matrix = (
        torch.zeros(n_bootstrap, n_clusters).scatter_add_(1, drawn, torch.ones(drawn.shape)).double().numpy()
    )
    return counts


def profile(steps: Sequence[Matrix], counts: Matrix) -> Profile:
    """Shares averaged over steps, each step normalised first: raw masses fall by magnitudes along an inversion.

    Args:
        steps: (G, U) masses per class, one matrix per trajectory point (a single one for classification).
        counts: from `resamples`, over the same G classes.
    """
    shares = np.mean([normalise(step.sum(axis=0)) for step in steps], axis=0)
    return Profile(shares, np.mean([normalise(counts @ step) for step in steps], axis=0))


def average(profiles: Sequence[Profile]) -> Profile:
    """Mean of profiles that were resampled together (the same `counts`), such as those of several attacks."""
    return Profile(np.mean([p.shares for p in profiles], axis=0), np.mean([p.resampled for p in profiles], axis=0))


def share_bounds(found: Profile) -> tuple[Matrix, Matrix]:
    """(U,) 95 % bounds of the shares."""
    low, high = np.percentile(found.resampled, [2.5, 97.5], axis=0)
    return np.minimum(low, found.shares), np.maximum(high, found.shares)


def contrast(inversion: Profile, classification: Profile) -> tuple[Matrix, Matrix, Matrix]:
    """(U,) log(inversion share / classification share) with its 95 % bounds; positive matters more to inversion."""
    low, high = np.percentile(np.log(inversion.resampled / classification.resampled), [2.5, 97.5], axis=0)
    value = np.log(inversion.shares / classification.shares)
    return value, np.minimum(low, value), np.maximum(high, value)


def depth_gap(inversion: Profile, classification: Profile) -> Gap | None:
    """One-sided Kolmogorov-Smirnov gap between the two depth profiles; None for a network of one unit."""
    if len(inversion.shares) < 2:
        return None
    difference = np.cumsum(inversion.shares - classification.shares)[:-1]
    boundary = int(np.argmax(difference)) + 1
    drawn = (inversion.resampled - classification.resampled)[:, :boundary].sum(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    value = float(difference[boundary - 1])
    return Gap(value, min(float(low), value), max(float(high), value), boundary)


def weighted_boundaries(inversion: Matrix, classification: Matrix) -> dict[str, int]:
    """K in 1..U-1 at the maximum of inversion mass minus lambda times classification mass, by lambda; {}: one unit."""
    if len(inversion) < 2:
        return {}
    gained, lost = np.cumsum(inversion)[:-1], np.cumsum(classification)[:-1]
    return {f"{weight:g}": int(np.argmax(gained - weight * lost)) + 1 for weight in CLASSIFICATION_WEIGHTS}


def depth_quantiles(n_units: int, quantiles: Sequence[float]) -> tuple[int, ...]:
    """Boundaries at shares of the depth, in 1..U-1."""
    return tuple(min(n_units - 1, max(1, round(q * n_units))) for q in quantiles) if n_units > 1 else ()


def candidate_boundaries(gap: Gap | None, classification: NDArray[np.float64]) -> tuple[int, ...]:
    """Boundaries a repair should try, ascending, each in 1..U-1 (card B.7).

    Informative: the gap's boundary and its neighbours, the deepest that leaves half of the classification mass tunable,
    and two depth quantiles. Otherwise depth quantiles and the linear probe.
    """
    n_units = len(classification)
    if gap is None:
        return ()
    if not gap.informative:
        found = {*depth_quantiles(n_units, _DEFAULT_QUANTILES), n_units - 1}
    else:
        left = 1 - np.cumsum(classification)[:-1]
        constrained = int(np.flatnonzero(left >= MIN_CLASSIFICATION_LEFT).max(initial=-1)) + 1
        near = {gap.boundary - 1, gap.boundary, gap.boundary + 1, constrained}
        found = near | set(depth_quantiles(n_units, _INFORMATIVE_QUANTILES))
    return tuple(sorted(k for k in found if 1 <= k <= n_units - 1))
