"""Looking for the image whose features are those that were seen: what rMLE minimises, over any encoder."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from auditor.attacks.base import KeyedContext

Distance = Callable[[Tensor, Tensor], Tensor]
"""(B, F) features and (B, F) wanted ones to (B,)."""


def relative_error(features: Tensor, wanted: Tensor) -> Tensor:
    """Squared error as a share of the wanted features' own square: comparable between layers."""
    return (features - wanted).square().sum(dim=1) / wanted.square().sum(dim=1).clamp_min(1e-12)


def standardised_error(features: Tensor, wanted: Tensor) -> Tensor:
    """The same after each row is brought to mean 0 and norm 1: blind to scale and offset, in [0, 4]."""

    def standard(rows: Tensor) -> Tensor:
        centred = rows - rows.mean(dim=1, keepdim=True)
        return normalize(centred, dim=1)

    return (standard(features) - standard(wanted)).square().sum(dim=1)


def total_variation(images: Tensor) -> Tensor:
    """(B,) mean squared difference of neighbouring pixels, across and down."""
    across, down = images.diff(dim=3).square(), images.diff(dim=2).square()
    return across.flatten(1).mean(dim=1) + down.flatten(1).mean(dim=1)


class FeatureMatch:
    """Distance of an image's features to the observed ones, plus total variation; one row per observed image.

    Args:
        encode: (B, C, H, W) in [0, 1] to (B, *shape), differentiable.
        activations: (N, *shape) observed.
        image_shape: (C, H, W).
        tv_weight: of the total variation.
        ctx: device and autocast policy.
        distance: of flat features.
    """

    queries_per_row = 1

    def __init__(
        self,
        encode: Callable[[Tensor], Tensor],
        activations: Tensor,
        image_shape: tuple[int, ...],
        tv_weight: float,
        ctx: KeyedContext,
        *,
        distance: Distance = relative_error,
    ) -> None:
        self._encode, self._activations, self._shape = encode, activations, image_shape
        self._tv_weight, self._ctx, self._distance = tv_weight, ctx, distance

    def __call__(self, latents: Tensor, index: Tensor, step: int) -> Tensor:
        """(B, C*H*W) pictures of rows `index` to (B,) losses."""
        images = latents.unflatten(1, self._shape)
        wanted = self._activations[index].to(latents.device).flatten(1).float()
        with self._ctx.autocast():
            features = self._encode(images)
        return self._distance(features.flatten(1).float(), wanted) + self._tv_weight * total_variation(images)


def in_range(latents: Tensor) -> Tensor:
    """Pixels within [0, 1]."""
    return torch.clamp(latents, 0, 1)
