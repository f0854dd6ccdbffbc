"""A prior whose pictures are resized to the target's input: a team's own generator rarely draws that size."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import interpolate

from auditor.contracts.base import digest_of
from auditor.priors.base import Prior
from auditor.tensors import RunContext


class ResizedPrior:
    """Wraps a prior; satisfies `auditor.priors.base.Prior` at another height and width.

    Args:
        inner: the prior that draws.
        image_shape: (C, H, W) wanted; C must be the inner one's.
    """

    def __init__(self, inner: Prior, image_shape: tuple[int, int, int]) -> None:
        if inner.image_shape[0] != image_shape[0]:
            raise ValueError(f"the prior draws {inner.image_shape[0]} channels, {image_shape[0]} are wanted")
        self._inner = inner
        self.name = inner.name
        self.latent_dim = inner.latent_dim
        self.image_shape = image_shape
        self.generator: nn.Module = inner.generator
        self.traits = inner.traits
        self.n_classes = inner.n_classes
        self.digest = digest_of({"prior": inner.digest, "resized": list(image_shape)})

    @property
    def stages(self) -> tuple[nn.Module, ...]:
        """The inner prior's; the last one resizes its pictures, so that no part begins at free pixels."""
        *features, last = self._inner.stages
        return (*features, _Resized(last, self.image_shape))

    def decode(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """(B, D) to (B, C, H, W) in [0, 1]; differentiable."""
        return _resize(self._inner.decode(latents, labels), self.image_shape)

    def critic(self, images: Tensor) -> Tensor | None:
        """The inner prior's critic, at the inner size."""
        return self._inner.critic(_resize(images, self._inner.image_shape))

    def surrogate(self, images: Tensor) -> Tensor | None:
        """The inner prior's surrogates, at the inner size."""
        return self._inner.surrogate(_resize(images, self._inner.image_shape))

    def project(self, images: Tensor, ctx: RunContext, labels: Tensor | None = None) -> Tensor:
        """(B, D): projection at the inner size."""
        return self._inner.project(_resize(images, self._inner.image_shape), ctx, labels)


class _Resized(nn.Module):
    """A module that draws, with its pictures brought to another height and width."""

    def __init__(self, inner: nn.Module, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.inner, self.image_shape = inner, image_shape

    def forward(self, *inputs: Tensor) -> Tensor:
        """What the inner module takes to (B, C, H, W) in [0, 1]."""
        return _resize(self.inner(*inputs), self.image_shape)


def fit_prior(prior: Prior, image_shape: tuple[int, int, int]) -> Prior:
    """`prior` itself when it draws `image_shape`, else wrapped."""
    return prior if tuple(prior.image_shape) == tuple(image_shape) else ResizedPrior(prior, image_shape)


def _resize(images: Tensor, shape: tuple[int, int, int]) -> Tensor:
    if tuple(images.shape[-2:]) == shape[1:]:
        return images
    resized = interpolate(images, shape[1:], mode="bilinear", antialias=True, align_corners=False)
    return resized.clamp(0, 1)
