"""The picture itself as a prior: one latent coordinate per pixel value. `pixel` is its coarse, smooth relative."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from auditor.contracts.access import Access
from auditor.priors.base import Oracle, Trait
from auditor.priors.network import NetworkPrior, PriorConfig
from auditor.tensors import ImageBatch, RunContext

SPREAD = 0.25
"""Pixel value per unit of latent."""
EDGE = 0.5 / SPREAD
"""Latents of black and white: -2 and 2."""


class PixelsConfig(PriorConfig):
    """The pixels prior has no parameters."""


class PixelsGenerator(nn.Module):
    """Latent (B, C*H*W) to (B, C, H, W) in [0, 1]: grey plus a quarter of the latent, clipped."""

    def __init__(self, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.image_shape = image_shape

    def forward(self, latents: Tensor) -> Tensor:
        """(B, C*H*W) to (B, C, H, W) in [0, 1]; no gradient where a latent lies beyond [-2, 2]."""
        # `clamp` has no gradient at the edge itself either, so a pixel that once reached it would never leave.
        values = torch.where(latents.abs() > EDGE, 0.5 + 0.5 * latents.sign(), 0.5 + SPREAD * latents)
        return values.reshape(len(latents), *self.image_shape)


class PixelsPrior(NetworkPrior):
    """Draws any picture there is and prefers none: its samples are noise around grey, its ceiling is perfect."""

    traits: frozenset[Trait] = frozenset({Trait.PIXELS})

    def project(self, images: Tensor, ctx: RunContext, labels: Tensor | None = None) -> Tensor:
        """(B, C*H*W): the pictures themselves, exact up to rounding."""
        return ((images.to(ctx.device) - 0.5) / SPREAD).flatten(1)

    def guess(self, images: Tensor, ctx: RunContext, labels: Tensor | None = None) -> Tensor:
        """(B, C*H*W): as `project`."""
        return self.project(images, ctx, labels)


class PixelsBuilder:
    """Knowledge-free prior: every pixel is a coordinate of its own; for attacks that work on the picture itself.

    Where `pixel` draws coarse smooth fields of a few hundred coordinates, this draws everything, noise included.
    """

    name = "pixels"
    paper = "own; the search space of Fredrikson, Jha and Ristenpart, CCS 2015, and Yin et al., CVPR 2020"
    Config = PixelsConfig
    traits: frozenset[Trait] = PixelsPrior.traits
    access: Access | None = None

    def __init__(self, config: PixelsConfig) -> None:
        self.config = config

    def train(self, public: ImageBatch, ctx: RunContext, oracle: Oracle | None = None) -> PixelsPrior:
        """Nothing to train: only the shape of `public` is used."""
        _, channels, height, width = public.images.shape
        return self.blank((channels, height, width))

    def blank(self, image_shape: tuple[int, int, int], n_classes: int = 0) -> PixelsPrior:
        """The prior itself: it has no weights."""
        return PixelsPrior(
            name=self.name,
            config=self.config,
            image_shape=image_shape,
            latent_dim=torch.Size(image_shape).numel(),
            networks=nn.ModuleDict({"generator": PixelsGenerator(image_shape)}),
        )
