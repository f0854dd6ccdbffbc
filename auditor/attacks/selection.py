"""The final choice among candidates: how confident the target stays when their pictures are changed a little."""

from __future__ import annotations

import torch
from torch import Tensor

from auditor.attacks.augment import N_DRAWS, Ranges, transform
from auditor.attacks.base import KeyedContext, Rows
from auditor.attacks.rows import Chunks, RowStreams
from auditor.targets.views import ScoreView


def robust_confidence(
    view: ScoreView,
    images: Tensor,
    rows: Rows,
    *,
    transforms: int,
    ranges: Ranges,
    chunks: Chunks,
    ctx: KeyedContext,
    stage: str,
) -> Tensor:
    """Mean probability of each row's class over random transforms of its picture.

    Args:
        view: the target, scores only.
        images: (N, C, H, W) in [0, 1].
        rows: class and candidate of each picture; every candidate has its own stream of transforms.
        transforms: random transforms per picture.
        ranges: limits of the transforms.
        chunks: pictures per forward pass.
        ctx: device, seed and progress.
        stage: name for progress.

    Returns:
        (N,) float32 in [0, 1], on the CPU.
    """
    draws = RowStreams(ctx, rows, "select").uniform(transforms, N_DRAWS)
    total = torch.zeros(len(rows))
    for turn in range(transforms):

        def confidence(part: slice, turn: int = turn) -> Tensor:
            with torch.no_grad(), ctx.autocast():
                seen = transform(images[part].to(ctx.device), draws[part, turn], ranges)
                log_probs = view.log_probs(seen).float()
            wanted = rows.labels[part].to(log_probs.device)
            return log_probs.gather(1, wanted[:, None]).squeeze(1).exp().cpu()

        total += torch.cat(chunks.map(len(rows), confidence))
        ctx.tick(stage, turn + 1, transforms)
    return total / transforms


def best_per_class(scores: Tensor, candidates: Rows, wanted: Rows) -> Tensor:
    """(M,) int64: for each wanted (class, sample), the sample-th best candidate of its class; ties keep order."""
    order: dict[int, Tensor] = {}
    for label in wanted.labels.unique().tolist():
        members = torch.nonzero(candidates.labels == label).squeeze(1)
        order[label] = members[scores[members].sort(descending=True, stable=True).indices]
    return torch.stack(
        [order[label][place] for label, place in zip(wanted.labels.tolist(), wanted.sample.tolist(), strict=True)]
    )
