"""The Prior protocol, what a prior may offer beyond it, and the latent arithmetic every prior shares."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from auditor.tensors import RunContext


class Trait(StrEnum):
    """What a prior offers beyond decoding and projecting; an attack names the traits it needs."""

    CRITIC = "critic"
    """`critic` scores realism."""
    CONDITIONAL = "conditional"
    """Draws a class at a time: `decode` and `project` need the labels."""
    STAGES = "stages"
    """`stages` has more than one part, so an attack may optimise what lies between them."""
    PIXELS = "pixels"
    """The latent is the picture: whoever uses it owns no images."""
    SURROGATE = "surrogate"
    """`surrogate` guesses the target's answer."""


class Prior(Protocol):
    """A differentiable generator over a latent ~ N(0, I)."""

    name: str
    latent_dim: int
    image_shape: tuple[int, int, int]
    digest: str
    """sha256 over weights and configuration."""
    generator: nn.Module
    """Draws the pictures; in eval mode, parameters without gradients."""
    traits: frozenset[Trait]
    n_classes: int
    """K of a prior that knows the target's classes (conditional, or its critic tells them apart), else 0."""

    @property
    def stages(self) -> tuple[nn.Module, ...]:
        """Modules whose composition is `decode`, latent (B, latent_dim) first, images in [0, 1] last; rows never mix.

        A conditional prior has the one stage that takes (latents, labels).
        """
        ...

    def decode(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """(B, latent_dim) to (B, C, H, W) float32 in [0, 1]; differentiable.

        `labels` (B,) int64 say which classes a conditional prior draws, which refuses to go without; others ignore
        them.
        """
        ...

    def critic(self, images: Tensor) -> Tensor | None:
        """(B,) realism score of images in [0, 1], larger is more real; None when the prior has no critic."""
        ...

    def surrogate(self, images: Tensor) -> Tensor | None:
        """(M, B, K) logits of M models that stand in for the target; None when the prior has none. Differentiable."""
        ...

    def project(self, images: Tensor, ctx: RunContext, labels: Tensor | None = None) -> Tensor:
        """(B, latent_dim): latents of the pictures nearest to `images` ((B, C, H, W) in [0, 1]), without any target."""
        ...


class Oracle(Protocol):
    """What a prior that is made for one target may ask it, at the access level its builder declares.

    The narrowed views of `auditor.targets.views` satisfy it; a method above their level raises.
    """

    n_classes: int

    def state_dict(self) -> dict[str, Any]:
        """The account of queries; one of the parts of a resumable training."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from such an account."""
        ...

    def labels(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] to (B,) int64, the winning class."""
        ...

    def log_probs(self, images: Tensor) -> Tensor:
        """(B, K) float32, no gradient."""
        ...

    def logits(self, images: Tensor) -> Tensor:
        """(B, K), differentiable with respect to the images."""
        ...


def sample_latents(prior: Prior, n: int, generator: torch.Generator) -> Tensor:
    """(n, latent_dim) draws from N(0, I) on the CPU."""
    return torch.randn(n, prior.latent_dim, generator=generator)


def sample_labels(prior: Prior, n: int, generator: torch.Generator) -> Tensor | None:
    """(n,) int64 classes drawn uniformly for a conditional prior, on the CPU; None for any other."""
    if Trait.CONDITIONAL not in prior.traits:
        return None
    return torch.randint(prior.n_classes, (n,), generator=generator)
