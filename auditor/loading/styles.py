"""The style space of a generator in two files, as a latent ~ N(0, I): a Gaussian fit of what the mapping gives."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from auditor.errors import InvalidInput
from auditor.loading.generator_inputs import Feed

N_SAMPLES = 8192
"""Random latents that are mapped for the fit."""
_CHUNK = 1024
_SLOPE = 0.2
"""Of the LeakyReLU that ends StyleGAN's mapping."""
_ALIKE = 1e-2
"""Layers whose styles agree up to this, once standardised, are one style seen through a truncation or repeated."""
MAX_WIDTH = 2048
"""Most coordinates of one picture's styles; StyleGAN has 512."""


class StyleSpace(nn.Module):
    """Latents ~ N(0, I) to the row of a synthesis file: styles with the mean, spread and correlation of the mapping's.

    The fit is Gaussian in W, or, with `space="p"`, in what comes before the last LeakyReLU of StyleGAN's mapping, where
    styles are closer to one (Zhu, Abdal, Qin, Femiani and Wonka, 2020, arXiv 2012.09036; An et al., NDSS 2022). Styles
    (L, d) of several layers that are one style, repeated or truncated layer by layer, share one latent of d.

    Args:
        samples: (S, d) or (S, L, d) styles of random latents.
        shape: (d,) or (L, d): a picture's styles as the synthesis file takes them.
        space: where the fit is made.
        feed: the synthesis file's inputs beside the styles, or None.

    Attributes:
        latent_dim: coordinates: those of the styles, then the feed's.

    Raises:
        InvalidInput: the layers are not one style, and too many.
    """

    mean: Tensor
    std: Tensor
    mixing: Tensor

    def __init__(
        self, samples: Tensor, shape: tuple[int, ...], *, space: Literal["w", "p"] = "w", feed: Feed | None = None
    ) -> None:
        super().__init__()
        styles = samples[:, None] if samples.ndim == 2 else samples  # (S, L, d)
        if space == "p":
            styles = leaky_relu(styles, 1 / _SLOPE)
        mean, std = styles.mean(dim=0), styles.std(dim=0).clamp_min(1e-12)
        standard = (styles - mean) / std
        if float((standard - standard[:, :1]).abs().max()) < _ALIKE:
            standard = standard[:, :1]
        self._layers = shape[0] if len(shape) == 2 else 1
        self._space, self._feed = space, feed
        self._width = standard[0].numel()
        if self._width > MAX_WIDTH:
            raise InvalidInput(f"the mapping gives {self._width} unrelated style values; the limit is {MAX_WIDTH}")
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.register_buffer("mixing", _root(standard.flatten(1)))
        self.latent_dim = self._width + (0 if feed is None else feed.latent_dim)

    def forward(self, latents: Tensor) -> Tensor:
        """(B, latent_dim) to (B, n)."""
        mixed = latents[:, : self._width] @ self.mixing.T
        styles = self.mean + self.std * mixed.unflatten(1, (-1, self.mean.shape[1]))  # (B, L, d)
        if self._space == "p":
            styles = leaky_relu(styles, _SLOPE)
        parts: list[Tensor] = [styles.expand(-1, self._layers, -1).flatten(1)]
        if self._feed is not None:
            parts.append(self._feed(latents[:, self._width :]))
        return torch.cat(parts, dim=1)


def _root(standard: Tensor) -> Tensor:
    """(d, d) symmetric root of the correlation of (S, d) standardised samples: coordinates stay what they are."""
    double = standard.double()
    values, vectors = torch.linalg.eigh(double.T @ double / (len(double) - 1))
    root: Tensor = vectors * values.clamp_min(0).sqrt() @ vectors.T
    return root.float()


@torch.no_grad()
def sample_styles(mapping: nn.Module, feed: Feed) -> Tensor:
    """(S, d) or (S, L, d) styles of S random latents, on the CPU; the same every time."""
    latents = torch.randn(N_SAMPLES, feed.latent_dim, generator=torch.Generator().manual_seed(0))
    return torch.cat([mapping(feed(chunk)).float() for chunk in latents.split(_CHUNK)])
