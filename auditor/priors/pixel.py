"""A coarse random colour field, upsampled: smooth by construction. `pixels` gives every pixel a coordinate instead."""

from __future__ import annotations

from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import interpolate

from auditor.contracts.access import Access
from auditor.priors.base import Oracle, Trait
from auditor.priors.network import NetworkPrior, PriorConfig
from auditor.tensors import ImageBatch, RunContext


class PixelConfig(PriorConfig):
    """Parameters of the pixel prior."""

    grid: int = Field(default=8, ge=2, le=64)
    """Side of the coarse grid the latent fills."""


class PixelGenerator(nn.Module):
    """Latent (B, C*grid*grid) to (B, C, H, W) in [0, 1]: bicubic upsampling through a sigmoid."""

    def __init__(self, image_shape: tuple[int, int, int], grid: int) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.grid = grid

    def forward(self, latents: Tensor) -> Tensor:
        """(B, C*grid*grid) to (B, C, H, W) in [0, 1]."""
        channels, height, width = self.image_shape
        field = latents.view(len(latents), channels, self.grid, self.grid)
        return torch.sigmoid(interpolate(field, (height, width), mode="bicubic", align_corners=False))


class PixelPrior(NetworkPrior):
    """The prior of an attacker who owns no images."""

    traits: frozenset[Trait] = frozenset({Trait.PIXELS})

    def project(self, images: Tensor, ctx: RunContext, labels: Tensor | None = None) -> Tensor:
        """(B, latent_dim): area average to the grid, through the inverse sigmoid."""
        grid = cast(PixelGenerator, self.generator).grid
        coarse = interpolate(images.to(ctx.device), (grid, grid), mode="area").clamp(0.01, 0.99)
        return torch.logit(coarse).flatten(1)


class PixelBuilder:
    """Knowledge-free prior: a coarse random colour field, upsampled; needs no public data."""

    name = "pixel"
    paper = "own; smooth-image prior as in Yin et al., CVPR 2020, arXiv 1912.08795 (total variation), by construction"
    Config = PixelConfig
    traits: frozenset[Trait] = PixelPrior.traits
    access: Access | None = None

    def __init__(self, config: PixelConfig) -> None:
        self.config = config

    def train(self, public: ImageBatch, ctx: RunContext, oracle: Oracle | None = None) -> PixelPrior:
        """Nothing to train: only the shape of `public` is used."""
        _, channels, height, width = public.images.shape
        return self.blank((channels, height, width))

    def blank(self, image_shape: tuple[int, int, int], n_classes: int = 0) -> PixelPrior:
        """The prior itself: it has no weights."""
        return PixelPrior(
            name=self.name,
            config=self.config,
            image_shape=image_shape,
            latent_dim=image_shape[0] * self.config.grid**2,
            networks=nn.ModuleDict({"generator": PixelGenerator(image_shape, self.config.grid)}),
        )
