"""Kernel inception distance: how far a prior's samples are from real public images, in the judge's embedding."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from auditor.contracts.scores import NotMeasured, Score
from auditor.evaluation.intervals import Interval
from auditor.evaluation.judge import Judge
from auditor.evaluation.scoring import measured
from auditor.tensors import RunContext

MIN_IMAGES = 200
"""Fewer on either side give an estimate whose noise is larger than the differences between priors."""
_MAX_IMAGES = 2000
_SUBSET, _SUBSETS = 100, 100


def kernel_distance(samples: Tensor, real: Tensor, judge: Judge, ctx: RunContext) -> Score:
    """Squared maximum mean discrepancy under the kernel (x.y + 1)^3 of unit embeddings; 0 for equal distributions.

    Binkowski, Sutherland, Arbel and Gretton, ICLR 2018, arXiv 1801.01401. Departures: the judge's embedding stands in
    for Inception's, which was made for photographs of objects, so the figure compares priors of one audit and is not
    comparable with published KIDs. Unbiased, so it may be slightly negative; the interval is that of the mean over
    random subsets.

    Args:
        samples: (N, C, H, W) in [0, 1], drawn without any target.
        real: (M, C, H, W) public images in [0, 1].
        judge: the embedder.
        ctx: seed, device and batch size.
    """
    smaller = min(len(samples), len(real))
    if smaller < MIN_IMAGES:
        return NotMeasured(metric="kid", reason=f"{smaller} images are too few for it; {MIN_IMAGES} are needed")
    first, second = (_some(images, name, ctx) for images, name in ((samples, "samples"), (real, "real")))
    x, y = judge.embed(first, ctx).double(), judge.embed(second, ctx).double()
    draws = np.array([_unbiased_mmd(_subset(x, i, "x", ctx), _subset(y, i, "y", ctx)) for i in range(_SUBSETS)])
    half = 1.96 * float(draws.std(ddof=1)) / _SUBSETS**0.5
    value = float(draws.mean())
    return measured("kid", Interval(value, value - half, value + half), smaller, unit="index", higher_is_riskier=False)


def _some(images: Tensor, name: str, ctx: RunContext) -> Tensor:
    order = torch.randperm(len(images), generator=ctx.rng("kid", name))
    return images[order[:_MAX_IMAGES]]


def _subset(rows: Tensor, index: int, name: str, ctx: RunContext) -> Tensor:
    return rows[torch.randperm(len(rows), generator=ctx.rng("kid", name, index))[:_SUBSET]]


def _unbiased_mmd(x: Tensor, y: Tensor) -> float:
    """Of (n, D) and (n, D) rows."""
    n = len(x)
    xx, yy, xy = ((a @ b.T + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    within = (xx.sum() - xx.diagonal().sum() + yy.sum() - yy.diagonal().sum()) / (n * (n - 1))
    return float(within - 2 * xy.mean())
