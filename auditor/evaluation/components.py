"""Principal components of a set of images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_OVERSAMPLING = 32
_ITERATIONS = 3
_MAX_IMAGES = 10_000


@dataclass(frozen=True)
class PrincipalComponents:
    """Directions of greatest variance, strongest first.

    Attributes:
        mean: (P,) mean image, P = C*H*W.
        directions: (P, k) orthonormal.
        deviations: (k,) standard deviation along each.
    """

    mean: Tensor
    directions: Tensor
    deviations: Tensor


def principal_components(images: Tensor, k: int, generator: torch.Generator) -> PrincipalComponents:
    """The first `k` components of `images` ((N, C, H, W)), by randomised subspace iteration on at most 10,000 of them.

    Halko, Martinsson & Tropp, SIAM Review 2011, arXiv 0909.4061.
    """
    rows = images[torch.randperm(len(images), generator=generator)[:_MAX_IMAGES]].flatten(1).cpu().float()
    k = min(k, *rows.shape)
    mean = rows.mean(dim=0)
    centred = rows - mean
    basis = torch.randn(rows.shape[1], min(k + _OVERSAMPLING, *rows.shape), generator=generator)
    for _ in range(_ITERATIONS):
        basis = torch.linalg.qr(centred.T @ (centred @ basis)).Q
    _, singular, right = torch.linalg.svd(centred @ basis, full_matrices=False)
    return PrincipalComponents(mean, basis @ right[:k].T, singular[:k] / len(rows) ** 0.5)
