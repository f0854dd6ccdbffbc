"""Training a helper network on public images: one loop for decoders and shadows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor, nn

from auditor.attacks.base import AttackConfig
from auditor.attacks.gradient import cosine
from auditor.priors.network import random_batch
from auditor.tensors import RunContext


class DecoderConfig(AttackConfig):
    """A decoder and its training; the paper: 50 passes over the data at batches of 32, a few deconvolutions."""

    width: int = Field(default=48, ge=4)
    """Channels of every layer."""
    blocks: int = Field(default=1, ge=0)
    """Residual blocks at the features' own scale."""
    steps: int = Field(default=2000, ge=1)
    """Updates, each on one batch that the device's part encodes."""
    batch: int = Field(default=32, ge=2)
    lr: float = Field(default=2e-3, gt=0)
    """Of Adam with AMSGrad, falling to zero along half a cosine."""


def fit_network(
    network: nn.Module,
    loss: Callable[[Tensor], Tensor],
    public: Tensor,
    ctx: RunContext,
    *,
    steps: int,
    batch: int,
    lr: float,
    stage: str,
) -> None:
    """Minimise `loss` over `network`'s parameters, in place; batches of `public` images, half of them mirrored.

    Args:
        network: on `ctx.device`; left in training mode.
        loss: (B, C, H, W) images on `ctx.device` to a scalar.
        public: (N, C, H, W) in [0, 1].
        ctx: device, seed, autocast policy, progress.
        steps: updates.
        batch: images per update.
        lr: peak step size.
        stage: names the draws and the progress.
    """
    generator = ctx.rng("split", stage, "batches")
    optimizer = torch.optim.Adam(network.train().parameters(), lr=lr, amsgrad=True)
    images = public.to(ctx.device)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * cosine(step, steps)
        chosen = random_batch(images, batch, flip=True, generator=generator)
        with ctx.autocast():
            value = loss(chosen)
        optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        ctx.tick(stage, step + 1, steps)
