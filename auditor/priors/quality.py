"""Figures that say how good a prior is, from public images alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from auditor.priors.base import Prior, sample_labels, sample_latents
from auditor.tensors import RunContext

if TYPE_CHECKING:
    from auditor.priors.network import NetworkPrior


@torch.no_grad()
def sample_images(prior: Prior, n: int, generator: torch.Generator, ctx: RunContext) -> Tensor:
    """(n, C, H, W) pictures of latents drawn from N(0, I) (and classes, where the prior draws those), on the CPU."""
    latents = sample_latents(prior, n, generator)
    return decode_all(prior, latents, sample_labels(prior, n, generator), ctx)


@torch.no_grad()
def decode_all(prior: Prior, latents: Tensor, labels: Tensor | None, ctx: RunContext) -> Tensor:
    """(N, C, H, W) pictures of (N, D) latents, in chunks, on the CPU."""
    parts = []
    for start in range(0, len(latents), ctx.batch_size):
        rows = slice(start, start + ctx.batch_size)
        parts.append(prior.decode(latents[rows].to(ctx.device), None if labels is None else labels[rows]).cpu())
    return torch.cat(parts)


def pixel_spread_ratio(samples: Tensor, images: Tensor) -> float:
    """Standard deviation over samples as a share of that over real images, means over pixels; collapse shows as 0."""
    return float(samples.std(dim=0).mean() / images.std(dim=0).mean().clamp_min(1e-8))


def nearest_sample_error(samples: Tensor, images: Tensor) -> float:
    """Mean over real images of the mean squared pixel distance to the nearest sample; what guessing reaches."""
    distances = torch.cdist(images.flatten(1), samples.flatten(1)).square()
    return float(distances.amin(dim=1).mean() / images[0].numel())


def hold_out(images: Tensor, ctx: RunContext, *, n: int = 128) -> tuple[Tensor, Tensor]:
    """Split public images into those to train on and at most `n` (a twentieth) to measure quality on.

    With fewer than 40 images everything is used for both.
    """
    _, count = hold_out_sizes(len(images), n=n)
    if count == len(images):
        return images, images
    order = torch.randperm(len(images), generator=ctx.rng("prior", "hold-out"))
    return images[order[count:]], images[order[:count]]


def hold_out_sizes(n_images: int, *, n: int = 128) -> tuple[int, int]:
    """How many of `n_images` public images `hold_out` gives for training and for measuring."""
    count = min(n, n_images // 20)
    return (n_images, n_images) if count < 2 else (n_images - count, count)


def quality_figures(
    prior: NetworkPrior, heldout: Tensor, ctx: RunContext, labels: Tensor | None = None
) -> dict[str, float]:
    """Spread of samples, and reconstruction errors (mean squared, per pixel) on public images the prior never saw.

    Args:
        prior: the prior to be described.
        heldout: (N, C, H, W) public images in [0, 1], the second part of `hold_out`.
        ctx: seed and device.
        labels: (N,) int64, the classes a conditional prior is to draw the images as.
    """
    chosen = heldout.cpu()
    samples = sample_images(prior, max(64, len(chosen)), ctx.rng("prior", "quality", "samples"), ctx)
    with torch.no_grad():
        drawn = decode_all(prior, prior.project(chosen, ctx, labels), labels, ctx)
    return {
        "pixel_spread_ratio": pixel_spread_ratio(samples, chosen),
        "reconstruction_mse": float((drawn - chosen).square().mean()),
        "image_variance": float((chosen - chosen.mean(dim=0)).square().mean()),
        "nearest_sample_mse": nearest_sample_error(samples, chosen),
    }
