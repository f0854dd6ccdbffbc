"""Whether mirrored images belong to the same kind: true of centred faces and of most objects, not of digits."""

from __future__ import annotations

import torch
from torch import Tensor

from auditor.components import PrincipalComponents, principal_components
from auditor.tensors import ImageBatch, RunContext

_MOST = 1.05
"""Mirrored images may cost at most this many times the reconstruction error of the images themselves."""


def mirrors_fit(batch: ImageBatch, ctx: RunContext) -> bool:
    """Draw unseen images, and their mirror images, from the principal components of the others, and compare the errors.

    Where the kind of image is symmetric the errors agree within a few per cent; digits, and faces that were not cropped
    on the centre, cost half as much again. No labels are needed. Fewer than 40 images tell nothing: False, since
    training on mirrored images of another kind does harm, and training without mirrored images hardly does.
    """
    if len(batch) < 40:
        return False
    order = torch.randperm(len(batch), generator=ctx.rng("mirrors"))[:3000]
    images = batch.images[order].cpu().float()
    known, unseen = images[::2], images[1::2]
    k = max(1, min(32, len(known) // 4, images[0].numel() // 4))
    found = principal_components(known, k, ctx.rng("mirrors", "components"))
    return _error(unseen.flip(3), found) <= _MOST * _error(unseen, found)


def _error(images: Tensor, components: PrincipalComponents) -> float:
    """Mean squared error of drawing `images` from `components`."""
    rows = images.flatten(1) - components.mean
    return float((rows - rows @ components.directions @ components.directions.T).square().mean())
