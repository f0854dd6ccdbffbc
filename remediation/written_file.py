"""A repaired network as a file: written in the submitted format, read back like a submission, and compared."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from auditor.contracts.access import Access
from auditor.contracts.submission import ModelFormat, TargetCard
from auditor.errors import AuditorError
from auditor.loading.inspection import inspect_model
from auditor.loading.probe import probe_images
from auditor.loading.public_model import shared_front
from auditor.loading.target_loading import load_target
from auditor.targets.base import Target
from auditor.targets.split import split_at, with_split
from remediation.preparation import RepairInputs

_AGREEMENT = 1e-3
"""Largest difference of log-probabilities between the trained network and the written file, relative to their size."""


class UnfaithfulFile(AuditorError):
    """The written model does not compute what was trained; nothing is kept."""

    code = "unfaithful_file"


def write_checked(
    module: nn.Module, inputs: RepairInputs, path: Path, public: Target | None
) -> tuple[TargetCard, float | None]:
    """Write the network in the submitted format, read it back like a submission, and compare.

    Returns:
        The new card, which says up to where the network is still the `public` one it came from, if any, and a bound
        on the difference between the network and the file in onnxruntime (None for bare weights): network against the
        file as interpreted, plus that against onnxruntime; or network against onnxruntime, where only scores can be
        had. Images on which the last digit decides (`Defense.comparable`) are left out, less than half of them.

    Raises:
        UnfaithfulFile: the file gives other outputs than the network.
        AuditorError: the file of a control of the output is read as one with gradients; they would show nothing.
    """
    inputs.source.write(module, path)
    spec = inputs.manifest.model.model_copy(update={"input": inputs.card.input, "n_classes": inputs.card.n_classes})
    card = inspect_model(path, spec)
    if inputs.serves and Access.WHITE_BOX in card.access:
        path.unlink(missing_ok=True)
        raise AuditorError("the written file's output control was not recognised, and would be attacked by gradients")
    target = load_target(path, card, torch.device("cpu"))
    if inputs.card.split is not None:
        card = with_split(card, split_at(target, inputs.card.split.layer))
    card = card.model_copy(update={"public_front": None if public is None else shared_front(target, public)})
    worst, allowed = _disagreement(module, target, inputs)
    if worst > allowed or (card.parity is not None and not card.parity.passed):
        path.unlink(missing_ok=True)
        raise UnfaithfulFile(f"the written file differs from the trained network by {worst:.2g}")
    interpreted = 0.0 if card.parity is None else card.parity.max_abs_error
    return card, worst + interpreted if card.format is ModelFormat.ONNX else None


@torch.no_grad()
def _disagreement(module: nn.Module, target: Target, inputs: RepairInputs) -> tuple[float, float]:
    """The largest difference of log-probabilities, and the largest allowed."""
    images = probe_images(inputs.card.input)
    raw = inputs.prepare(images)
    module.cpu().eval()
    ours, theirs = module(raw).log_softmax(1), target.logits(images).log_softmax(1)
    rows = inputs.defense.comparable(module, raw)
    if 2 * int(rows.sum()) < len(rows):
        raise UnfaithfulFile("on most test images the last digit decides the scores, so the file cannot be compared")
    # scores changed at the output are zero or not: the size of the logarithm of nothing must not widen the tolerance
    size = 1.0 if inputs.serves else max(1.0, float(ours.abs().max()))
    return float((ours - theirs)[rows].abs().max()), _AGREEMENT * size
