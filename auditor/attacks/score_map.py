"""What a target's scores say about a picture: an embedding of pictures, and a map to it from scores (for C2FMI)."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, cosine_similarity, normalize, one_hot

from auditor.attacks.base import KeyedContext
from auditor.priors.base import Prior

SIDE = 32
"""Larger pictures are averaged down to this many pixels a side before they are embedded."""


class Components(nn.Module):
    """An embedding: the leading principal components of the public images, each in units of its deviation."""

    mean: Tensor
    directions: Tensor

    def __init__(self, image_shape: tuple[int, int, int], components: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        self.side = (min(height, SIDE), min(width, SIDE))
        pixels = channels * self.side[0] * self.side[1]
        self.register_buffer("mean", torch.zeros(pixels))
        self.register_buffer("directions", torch.zeros(pixels, min(components, pixels)))

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] to (B, d)."""
        return (self._flat(images) - self.mean) @ self.directions

    def fit(self, images: Tensor, seed: int) -> None:
        """Take the components of (N, C, H, W) `images` on the CPU; directions that they do not span stay zero."""
        flat = torch.cat([self._flat(chunk) for chunk in images.split(1024)])
        mean = flat.mean(dim=0)
        rank = min(self.directions.shape[1], max(1, len(flat) - 1))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            _, spread, found = torch.pca_lowrank(flat - mean, q=rank, center=False, niter=4)
        scaled = found / (spread / math.sqrt(len(flat))).clamp_min(1e-6)
        directions = torch.zeros(self.directions.shape)
        directions[:, :rank] = torch.where(spread > 1e-4 * spread[0], scaled, 0.0)
        self.mean.copy_(mean)
        self.directions.copy_(directions)

    def _flat(self, images: Tensor) -> Tensor:
        return adaptive_avg_pool2d(images, self.side).flatten(1)


class ScoreMap(nn.Module):
    """The target's scores to the embedding of the picture they are about: three layers with LeakyReLU.

    Attributes:
        floor: log-probability, negative, at and below which a score counts as none.
    """

    floor: Tensor

    def __init__(self, n_classes: int, n_outputs: int, width: int, top: int) -> None:
        super().__init__()
        self.register_buffer("floor", torch.tensor(-1.0))
        self._top = min(top, n_classes)
        self.layers = nn.Sequential(
            nn.Linear(n_classes, width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, n_outputs),
        )

    def forward(self, log_probs: Tensor) -> Tensor:
        """(B, K) to (B, d)."""
        kept, places = log_probs.topk(self._top, dim=1)
        heights = (1 - kept / self.floor).clamp_min(0)
        known = torch.zeros_like(log_probs).scatter(1, places, heights)
        return self.layers(normalize(known, dim=1))  # type: ignore[no-any-return]

    def certain(self, labels: Tensor) -> Tensor:
        """(B, d): the embedding that a target sure of (B,) `labels` has in mind."""
        n_classes = cast(nn.Linear, self.layers[0]).in_features
        sure = one_hot(labels, n_classes).to(self.floor.dtype)
        return self(torch.where(sure > 0, 0.0, self.floor))  # type: ignore[no-any-return]


class Aim:
    """One minus the cosine between a picture's embedding and its goal, for the gradient engine.

    Asks the target nothing.

    Args:
        embedder: pictures to (B, d).
        goals: (N, d), the embedding each row is to reach.
        prior: paints the latents.
        labels: (N,) int64, the class each row is aimed at.
        ctx: device and autocast policy.
    """

    queries_per_row = 0

    def __init__(self, embedder: nn.Module, goals: Tensor, prior: Prior, labels: Tensor, ctx: KeyedContext) -> None:
        self._embedder, self._goals, self._prior = embedder, goals, prior
        self._labels, self._ctx = labels.to(ctx.device), ctx

    def __call__(self, latents: Tensor, index: Tensor, step: int) -> Tensor:
        """(B, D) latents of rows `index` to (B,) losses."""
        index = index.to(self._labels.device)
        with self._ctx.autocast():
            images = self._prior.decode(latents, self._labels[index])
        return 1 - cosine_similarity(self._embedder(images.float()), self._goals[index], dim=1)
