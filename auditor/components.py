"""Principal components of images or features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_OVERSAMPLING = 32
_ITERATIONS = 3
_MAX_ROWS = 10_000


@dataclass(frozen=True)
class PrincipalComponents:
    """Directions of greatest variance, strongest first.

    Attributes:
        mean: (P,) mean of the flattened rows.
        directions: (P, k) orthonormal.
        deviations: (k,) standard deviation along each.
    """

    mean: Tensor
    directions: Tensor
    deviations: Tensor


def principal_components(rows: Tensor, k: int, generator: torch.Generator) -> PrincipalComponents:
    """The first `k` components (fewer of fewer rows) of (N, ...) `rows`, by subspace iteration from a random start.

    At most 10,000 rows are looked at.

    Halko, Martinsson & Tropp, SIAM Review 2011, arXiv 0909.4061.
    """
    rows = rows[torch.randperm(len(rows), generator=generator)[:_MAX_ROWS]].flatten(1).cpu().float()
    k = min(k, *rows.shape)
    mean = rows.mean(dim=0)
    centred = rows - mean
    basis = torch.randn(rows.shape[1], min(k + _OVERSAMPLING, *rows.shape), generator=generator)
    for _ in range(_ITERATIONS):
        basis = torch.linalg.qr(centred.T @ (centred @ basis)).Q
    _, singular, right = torch.linalg.svd(centred @ basis, full_matrices=False)
    return PrincipalComponents(mean, basis @ right[:k].T, singular[:k] / len(rows) ** 0.5)
