"""A frozen front is run once: its features take the place of the images for the rest of the training."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from auditor.contracts.repair import FreezePlan, NormMode
from auditor.fisher.units import evaluation_mode
from auditor.targets.split import CutPoint, Half, module_cuts, module_halves
from auditor.tensors import ImageBatch, RunContext
from auditor.training import predict
from remediation import freezing

MAX_BYTES = 2 * 2**30
"""Features are kept where they take no more memory than this."""
_ROUNDING = 1e-5


class Tail(nn.Module):
    """What follows the cut of a network, as a network of its own; the weights are the network's.

    Args:
        network: raw model input to (B, K).
        half: features to (B, K), by the network's weights.
    """

    def __init__(self, network: nn.Module, half: Half) -> None:
        super().__init__()
        self.network = network
        self._half = half

    def forward(self, features: Tensor) -> Tensor:
        """(B, ...) features to (B, K) logits."""
        return self._half(features)


@dataclass(frozen=True)
class FrontOnce:
    """The rest of a training, from features on.

    Attributes:
        tail: features to (B, K) logits.
        fit: features and labels to train on; `images` holds features.
        validation: the same, to choose the epoch.
    """

    tail: Tail
    fit: ImageBatch
    validation: ImageBatch


def front_once(
    module: nn.Module,
    plan: FreezePlan,
    fit: ImageBatch,
    validation: ImageBatch,
    ctx: RunContext,
    *,
    prepare: Callable[[Tensor], Tensor],
) -> FrontOnce | None:
    """Run what `plan` froze over the images once; None where that gives other features than each batch would see.

    Such a front has statistics that move, or takes no part (nothing is frozen), or its features are too large to keep.
    Only for images that are not augmented.

    Args:
        module: raw model input to (B, K), with the plan applied.
        plan: what is frozen.
        fit: images in [0, 1] and labels.
        validation: the same.
        ctx: device, batch size, progress.
        prepare: images in [0, 1] to raw model input.
    """
    if plan.boundary == 0 or plan.norm_mode is NormMode.REFERENCE:
        return None
    example = prepare(fit.images[:2].to(ctx.device))
    module.to(ctx.device)
    with evaluation_mode(module):
        point = _last_frozen(module, example)
        if point is None or _bytes(point, len(fit) + len(validation)) > MAX_BYTES:
            return None
        front, half = module_halves(module, point, _shape(example))
        tail = Tail(module, half)
        with torch.no_grad():
            features, wanted = front(example), module(example)
            if not torch.allclose(half(features), wanted, atol=_ROUNDING * float(wanted.abs().max())):
                return None
    freezing.set_mode(module, plan)
    with torch.no_grad():
        if not all(torch.equal(features, front(example)) for _ in range(2)):
            return None

    def run(batch: ImageBatch) -> ImageBatch:
        with evaluation_mode(module):
            return ImageBatch(predict(front, batch.images, ctx, prepare=prepare), batch.labels)

    return FrontOnce(tail, run(fit), run(validation))


def _last_frozen(module: nn.Module, example: Tensor) -> CutPoint | None:
    """The last cut in front of everything that is trained."""
    last = None
    for point in module_cuts(module, _shape(example)):
        with torch.enable_grad():
            features = module_halves(module, point, _shape(example))[0](example)
        if features.requires_grad:
            break
        last = point
    return last


def _shape(example: Tensor) -> tuple[int, int, int]:
    _, channels, height, width = example.shape
    return channels, height, width


def _bytes(point: CutPoint, n_images: int) -> int:
    return 4 * math.prod(point.shape) * n_images
