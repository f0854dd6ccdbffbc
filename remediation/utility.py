"""What a repair costs beside accuracy: calibration, small-change robustness, latency and size."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from auditor.contracts.access import Access
from auditor.contracts.repair import Utility
from auditor.contracts.scores import Score
from auditor.evaluation.cards import accuracy_score
from auditor.evaluation.intervals import Bootstrap
from auditor.targets.base import Target, offers
from auditor.tensors import ImageBatch, RunContext
from auditor.training import predict

N_BINS = 15
CHANGES = (0.0005, 0.001)
"""Largest change of a pixel, in units of [0, 1]."""
_STEPS = 5
_RUNS = 5


def measure_utility(target: Target, path: Path, heldout: ImageBatch, ctx: RunContext) -> Utility:
    """The figures of a model as it is deployed.

    Args:
        target: read from the file at `path`.
        path: the file.
        heldout: labelled images never trained on, nor used to choose an epoch or a boundary by their own figure here.
        ctx: device, seed, batch size.
    """
    robust = {}
    if offers(target, Access.WHITE_BOX):
        robust = {f"{size:g}": _robust_accuracy(target, heldout, size, ctx) for size in CHANGES}
    return Utility(
        calibration_error=calibration_error(predict(target.logits, heldout.images, ctx), _labels(heldout)),
        robust_accuracy=robust,
        latency_ms=_latency_ms(target, ctx),
        size_bytes=path.stat().st_size,
    )


def calibration_error(logits: Tensor, labels: Tensor) -> float:
    """Expected calibration error (Guo, Pleiss, Sun and Weinberger, ICML 2017, arXiv 1706.04599).

    Args:
        logits: (N, K), or log-probabilities.
        labels: (N,) int64.
    """
    confidence, guessed = logits.double().softmax(dim=1).max(dim=1)
    right = (guessed == labels).double()
    bins = (confidence * N_BINS).long().clamp(max=N_BINS - 1)
    gaps = torch.zeros(N_BINS, dtype=torch.float64).index_add_(0, bins, right - confidence)
    return float(gaps.abs().sum() / len(labels))


def _labels(batch: ImageBatch) -> Tensor:
    if batch.labels is None:
        raise ValueError("utility needs labels")
    return batch.labels


def _robust_accuracy(target: Target, heldout: ImageBatch, size: float, ctx: RunContext) -> Score:
    """Accuracy on images moved by at most `size` per pixel, by signs of the gradient of the cross-entropy.

    Projected gradient descent (Madry et al., ICLR 2018, arXiv 1706.06083) from the image itself, a step a third of the
    way; no restarts, so a bound from above.
    """
    chunks = zip(heldout.images.split(ctx.batch_size), _labels(heldout).split(ctx.batch_size), strict=True)
    moved = torch.cat([_moved(target, images, labels, size, ctx) for images, labels in chunks])
    changed = ImageBatch(moved, heldout.labels)
    return accuracy_score(f"robust_accuracy_{size:g}", target.logits, changed, ctx, Bootstrap(seed=ctx.seed))


def _moved(target: Target, images: Tensor, labels: Tensor, size: float, ctx: RunContext) -> Tensor:
    start, wanted = images.to(ctx.device), labels.to(ctx.device)
    x = start.clone()
    for _ in range(_STEPS):
        x.requires_grad_(True)
        with torch.enable_grad():
            loss = cross_entropy(target.logits(x).float(), wanted, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, x)
        x = (x.detach() + size / 3 * gradient.sign()).clamp(start - size, start + size).clamp(0, 1)
    return x.cpu()


@torch.no_grad()
def _latency_ms(target: Target, ctx: RunContext) -> float:
    image = torch.zeros(1, *target.image_shape, device=ctx.device)
    best = float("inf")
    for _ in range(_RUNS):
        started = time.perf_counter()
        target.logits(image).cpu()
        best = min(best, time.perf_counter() - started)
    return round(1000 * best, 3)
