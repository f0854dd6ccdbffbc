"""Shares of the Fisher mass by unit: which view is taken changes the ranking, so the view is always named (card B.5).

- `relative`: sum of theta^2 g^2, invariant when a layer is rescaled and its norm undoes it (recommended);
- `sum`: sum of g^2, where the mass is: large late layers win by size;
- `density`: sum of g^2 over the number of parameters: small early layers win by size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from auditor.fisher.per_sample import UnitSquares

Aggregator = Literal["relative", "sum", "density"]
AGGREGATORS: tuple[Aggregator, ...] = ("relative", "sum", "density")
RECOMMENDED: Aggregator = "relative"

_FLOOR = 1e-12
"""Smallest share before logarithms."""

Matrix = NDArray[np.float64]


def masses(squares: UnitSquares, sizes: Sequence[int], aggregator: Aggregator) -> Matrix:
    """(N, U) mass of each sample in each unit.

    Args:
        squares: per-sample sums, all finite.
        sizes: (U,) scalar parameters per unit.
        aggregator: the view.
    """
    if aggregator == "relative":
        return squares.relative.numpy()  # type: ignore[no-any-return]
    squared: Matrix = squares.squared.numpy()
    return squared if aggregator == "sum" else squared / np.maximum(np.asarray(sizes, dtype=np.float64), 1.0)


def normalise(mass: Matrix) -> Matrix:
    """Rows of (..., U) masses to shares that sum to one and are at least 1e-12; a row without mass becomes uniform."""
    total = mass.sum(axis=-1, keepdims=True)
    shares = np.where(total > 0, mass / np.where(total > 0, total, 1.0), 1.0 / mass.shape[-1])
    shares = np.maximum(shares, _FLOOR)
    result: Matrix = shares / shares.sum(axis=-1, keepdims=True)
    return result


def trimmed(mass: Matrix, frac: float = 0.1) -> Matrix:
    """(U,) shares from the mean over samples without the lowest and highest `frac` of each unit's values."""
    cut = int(len(mass) * frac)
    kept = np.sort(mass, axis=0)[cut : len(mass) - cut]
    return normalise(kept.mean(axis=0))


def cluster_sums(mass: Matrix, clusters: NDArray[np.int64], order: NDArray[np.int64]) -> Matrix:
    """(G, U) masses summed within each cluster (class) of `order`."""
    sums = np.zeros((len(order), mass.shape[1]))
    np.add.at(sums, np.searchsorted(order, clusters), mass)
    return sums
