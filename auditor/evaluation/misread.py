"""Classes whose label means somebody else to the target: what a class map that is wrong in places looks like."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from auditor.tensors import ImageBatch, RunContext
from auditor.training import predict

CHANCE = 0.001
"""So unlikely must it be, at the target's mean accuracy, that it misses every image of a class."""
SEEN = 0.5
"""Share of them that the evaluator, trained on the labels as they were given, recognises."""


def misread_classes(
    target: Callable[[Tensor], Tensor], evaluator: Callable[[Tensor], Tensor], heldout: ImageBatch, ctx: RunContext
) -> frozenset[int]:
    """Classes of which the target never recognises an image, although it recognises others and the evaluator these.

    An attack on such a class rebuilds another one and is judged a failure: it looks harmless whatever leaks.

    Args:
        target: (B, C, H, W) in [0, 1] to (B, K).
        evaluator: the same, of a network trained on the labels.
        heldout: images that neither was trained on, with labels.
        ctx: device and batch size.
    """
    if heldout.labels is None or len(heldout) == 0:
        return frozenset()
    labels = heldout.labels.cpu()
    right = predict(target, heldout.images, ctx).argmax(dim=1) == labels
    seen = predict(evaluator, heldout.images, ctx).argmax(dim=1) == labels
    missing = 1 - float(right.float().mean())
    found = []
    for label in labels.unique().tolist():
        rows = labels == label
        missed = not bool(right[rows].any()) and missing ** int(rows.sum()) < CHANCE
        if missed and float(seen[rows].float().mean()) >= SEEN:
            found.append(int(label))
    return frozenset(found)
