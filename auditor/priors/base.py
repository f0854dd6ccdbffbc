"""The Prior protocol and the latent arithmetic every prior shares."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from auditor.tensors import RunContext


class Prior(Protocol):
    """A differentiable generator over a latent ~ N(0, I)."""

    name: str
    latent_dim: int
    image_shape: tuple[int, int, int]
    digest: str
    """sha256 over weights and configuration."""
    generator: nn.Module
    """Latent (B, latent_dim) to images; in eval mode, parameters without gradients."""

    def decode(self, latents: Tensor) -> Tensor:
        """(B, latent_dim) to (B, C, H, W) float32 in [0, 1]; differentiable."""
        ...

    def critic(self, images: Tensor) -> Tensor | None:
        """(B,) realism score of images in [0, 1], larger is more real; None when the prior has no critic."""
        ...

    def project(self, images: Tensor, ctx: RunContext) -> Tensor:
        """(B, latent_dim): latents of the pictures nearest to `images` ((B, C, H, W) in [0, 1]), without any target."""
        ...


def sample_latents(prior: Prior, n: int, generator: torch.Generator) -> Tensor:
    """(n, latent_dim) draws from N(0, I) on the CPU."""
    return torch.randn(n, prior.latent_dim, generator=generator)
