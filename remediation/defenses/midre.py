"""MIDRE: train on images of which a random square is erased.

Tran, Nguyen, Mai, Vandierendonck, Assent, Kot and Cheung, "Random Erasing vs. Model Inversion: A Promising Defense or a
False Hope?", TMLR 2025, arXiv 2409.01062. The network never sees a whole object, so what an attack rebuilds lies away
from the features of private images; the place is random, so that every part is seen at some time and accuracy lasts.

Departures from the authors' code:

- the erased part is filled with the mean colour of the private training images; theirs takes ImageNet's;
- it has the proportions of the image, which is their square wherever the image is one;
- its area is drawn uniformly and then rounded to whole pixels within the bounds.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, floor, sqrt

import torch
from pydantic import Field
from torch import Tensor

from remediation.defenses.base import Defense, DefenseConfig, Tuned, Tuning

LEAST_AREA = 0.1
"""Share of an image that is always erased."""


class MidreConfig(DefenseConfig):
    """How much is erased."""

    max_area: float = Field(default=0.4, gt=LEAST_AREA, le=0.8)
    """Largest share of an image that is erased; the authors take 0.4 or 0.8."""


def random_erasing(fill: Tensor, max_area: float) -> Callable[[Tensor, torch.Generator], Tensor]:
    """A change of (B, C, H, W) images that erases one random part of each, of a share in [`LEAST_AREA`, `max_area`].

    Args:
        fill: (C,) colour of the erased part.
        max_area: in (`LEAST_AREA`, 1].
    """

    def erase(images: Tensor, generator: torch.Generator) -> Tensor:
        B, _, H, W = images.shape
        u = torch.rand(B, 3, generator=generator)
        side = (LEAST_AREA + u[:, 0] * (max_area - LEAST_AREA)).sqrt()
        inside = _span(side, u[:, 1], H, max_area)[:, :, None] & _span(side, u[:, 2], W, max_area)[:, None, :]
        return torch.where(inside[:, None].to(images.device), fill.to(images).view(1, -1, 1, 1), images)

    return erase


def _span(side: Tensor, place: Tensor, size: int, max_area: float) -> Tensor:
    """(B, size) bool: a run of about `side` of the pixels, where `place` in [0, 1) puts it."""
    length = (side * size).round().clamp(ceil(sqrt(LEAST_AREA) * size), floor(sqrt(max_area) * size))
    start = (place * (size - length + 1)).floor()
    pixels = torch.arange(size)
    return (pixels >= start[:, None]) & (pixels < (start + length)[:, None])


class Midre(Defense[MidreConfig]):
    """Random erasing of the training images."""

    name = "midre"
    Config = MidreConfig

    def tune(self, job: Tuning) -> Tuned:
        """Plain cross-entropy on erased images."""
        mean = job.data.fit.images.mean(dim=(0, 2, 3))
        return Tuned(job.module, job.train(self.config.training, degrade=random_erasing(mean, self.config.max_area)))
