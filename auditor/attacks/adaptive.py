"""What an attacker does to pictures before the target sees them in order to see through a defense.

Every change is random per row, step and copy, and the gradient is averaged over the copies of a step and over the
steps: expectation over transformation (Athalye, Engstrom, Ilyas and Kwok, ICML 2018, arXiv 1707.07397), which is how
gradients of a defense that is random or rough are taken (Athalye, Carlini and Wagner, ICML 2018, arXiv 1802.00420).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from auditor.attacks.augment import StepDraws
from auditor.attacks.rows import RowStreams

SMALLEST_HOLE = 0.1
"""Share of the picture that an erased square covers at least, where the largest allows it."""


def erased(images: Tensor, draws: Tensor, largest: float) -> Tensor:
    """One square of every picture, filled with the picture's mean colour; differentiable outside it.

    Args:
        images: (B, C, H, W) in [0, 1].
        draws: (B, 3) uniform in [0, 1): area and place.
        largest: share of the picture's area the square covers at most, in (0, 1).
    """
    H, W = images.shape[-2:]
    draws = draws.to(images.device)
    smallest = min(SMALLEST_HOLE, largest)
    side = ((smallest + (largest - smallest) * draws[:, 0]) * H * W).sqrt()
    inside = []
    for size, draw in ((H, draws[:, 1]), (W, draws[:, 2])):
        span = side.clamp(max=size)
        offset = torch.arange(size, device=images.device) + 0.5 - (draw * (size - span))[:, None]
        inside.append((offset > 0) & (offset < span[:, None]))  # (B, size)
    hole = inside[0][:, None, :, None] & inside[1][:, None, None, :]  # (B, 1, H, W)
    return torch.where(hole, images.mean(dim=(2, 3), keepdim=True).detach(), images)


def blurred(images: Tensor, sigma: float, scale: Tensor | None = None) -> Tensor:
    """(B, C, H, W) after a Gaussian blur, borders repeated; differentiable, float32 whatever the autocast policy.

    Args:
        images: (B, C, H, W).
        sigma: standard deviation in pixels, above 0; the kernel reaches three times as far.
        scale: (B,) factors in (0, 1] on `sigma`, one per picture; None: 1.
    """
    reach = math.ceil(3 * sigma)
    offsets = torch.arange(-reach, reach + 1, device=images.device)
    spread = sigma * (torch.ones(1) if scale is None else scale).to(images.device)[:, None]
    weights = torch.exp(-0.5 * (offsets / spread).square())
    weights = (weights / weights.sum(dim=1, keepdim=True))[:, :, None, None, None]  # (B or 1, taps, 1, 1, 1)
    for dim, border in ((2, (0, 0, reach, reach)), (3, (reach, reach, 0, 0))):
        wide, size = pad(images.float(), border, mode="replicate"), images.shape[dim]
        images = torch.zeros_like(images, dtype=torch.float32)
        for place in range(len(offsets)):
            images = images + weights[:, place] * wide.narrow(dim, place, size)
    return images


class Erase:
    """Hide a random square, as training against inversion by random erasing does (Tran et al., arXiv 2409.01062).

    A model trained that way answers to parts; a picture that convinces it only as a whole, or only by one spot, loses.
    The paper fills with ImageNet's mean colour, here it is the picture's own.

    Args:
        streams: one generator per row.
        copies: of every picture per step.
        largest: share of the area hidden at most; from a tenth of it up, uniformly.
    """

    def __init__(self, streams: RowStreams, copies: int, largest: float) -> None:
        self._draws, self._largest = StepDraws(streams, copies, 3), largest

    def __call__(self, images: Tensor, index: Tensor, step: int) -> Tensor:
        """The copies, each with its own square hidden."""
        return erased(images, self._draws(index, step), self._largest)


class Noise:
    """Add Gaussian noise, so that what only a finely tuned picture does to the target averages out.

    For targets that answer at random, noise of 0 and several copies are enough: each copy is a forward pass of its own.

    Args:
        streams: one generator per row.
        copies: of every picture per step.
        deviation: of the noise, in units of the picture's range [0, 1].
    """

    def __init__(self, streams: RowStreams, copies: int, deviation: float) -> None:
        self._draws, self._deviation = StepDraws(streams, copies, 1), deviation

    def __call__(self, images: Tensor, index: Tensor, step: int) -> Tensor:
        """The copies, each with its own noise, clamped to [0, 1].

        Each copy's noise comes from a seed, so that asking twice for one step gives the same picture.
        """
        noise, generator = torch.empty(images.shape), torch.Generator()
        for row, draw in zip(noise, self._draws(index, step)[:, 0].tolist(), strict=True):
            row.normal_(generator=generator.manual_seed(int(draw * 2**24)))
        return (images + self._deviation * noise.to(images.device)).clamp(0, 1)


class Scrub:
    """Blur, which wipes out faint fine patterns and leaves what a person sees.

    Trapdoor defenses plant such patterns, two per cent strong, as shortcuts to every class (Trap-MID: Liu and Chen,
    NeurIPS 2024, arXiv 2411.08460); smoothing takes their effect away (feature squeezing: Xu, Evans and Qi, NDSS 2018,
    arXiv 1704.01155). Nothing of the sharp picture is mixed in: Adam would make up for a gradient that is only weaker.

    Args:
        streams: one generator per row.
        copies: of every picture per step.
        sigma: of the blur at most, in pixels; from half of it up, uniformly.
    """

    def __init__(self, streams: RowStreams, copies: int, sigma: float) -> None:
        self._draws, self._sigma = StepDraws(streams, copies, 1), sigma

    def __call__(self, images: Tensor, index: Tensor, step: int) -> Tensor:
        """The copies, each blurred by its own amount."""
        return blurred(images, self._sigma, 0.5 + 0.5 * self._draws(index, step)[:, 0])
