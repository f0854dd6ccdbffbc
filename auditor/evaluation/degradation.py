"""Mild degradations for training: a judge that knows people only by crisp pixels would reject every generated picture.

Card D.1 asks for an evaluator that also classifies slightly degraded images. Generators, autoencoders above all, draw
smooth pictures, so part of every training batch is blurred, noised, or reduced to its leading principal components,
which is what a linear autoencoder would draw.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from auditor.components import PrincipalComponents, principal_components

_N_SIGMAS = 3
_MAX_COMPONENTS = 160


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """(B, C, H, W) blurred with a Gaussian of `sigma` pixels; borders mirrored."""
    C, H, W = images.shape[1:]
    radius = min(max(1, round(_N_SIGMAS * sigma)), H - 1, W - 1)
    offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-offsets.square() / (2 * sigma * sigma))
    kernel = (kernel / kernel.sum()).expand(C, 1, -1)  # (C, 1, 2r+1)
    padded = pad(images, (radius, radius, radius, radius), mode="reflect")
    rows = conv2d(padded, kernel[:, :, None, :], groups=C)
    return conv2d(rows, kernel[:, :, :, None], groups=C)


def smooth(images: Tensor, components: PrincipalComponents, k: int) -> Tensor:
    """`images` drawn from the first `k` of `components`, as a linear autoencoder would."""
    basis, mean = components.directions[:, :k].to(images.device), components.mean.to(images.device)
    drawn: Tensor = ((images.flatten(1) - mean) @ basis) @ basis.T + mean
    return drawn.view_as(images).clamp(0, 1)


def smoothing_components(images: Tensor, generator: torch.Generator) -> PrincipalComponents:
    """The components `degrade` smooths with, from the training images."""
    return principal_components(images, _MAX_COMPONENTS, generator)


def degrade(images: Tensor, generator: torch.Generator, *, components: PrincipalComponents) -> Tensor:
    """Half of the rows left alone, a quarter blurred, a quarter smoothed; then weak noise on half of all rows.

    Args:
        images: (B, C, H, W) in [0, 1].
        generator: CPU generator.
        components: of the training images.
    """
    B, side = len(images), min(images.shape[-2:])
    kind = torch.rand(B, generator=generator)
    level, noise = torch.rand(3, generator=generator).tolist(), torch.rand(B, 2, generator=generator)
    result = images.clone()
    blurred, smoothed = (kind < 0.25).to(images.device), ((kind >= 0.25) & (kind < 0.5)).to(images.device)
    if bool(blurred.any()):
        result[blurred] = gaussian_blur(images[blurred], (0.4 + level[0]) * side / 32)
    if bool(smoothed.any()):
        k = components.directions.shape[1]
        result[smoothed] = smooth(images[smoothed], components, max(1, round(k * (0.25 + 0.75 * level[1]))))
    amount = (0.05 * noise[:, 0] * (noise[:, 1] < 0.5)).view(B, 1, 1, 1)
    return (result + (amount * torch.randn(images.shape, generator=generator)).to(images.device)).clamp(0, 1)
