"""A target from its file and its card."""

from __future__ import annotations

from pathlib import Path

import torch

from auditor.contracts.access import Access
from auditor.contracts.base import digest_of_file
from auditor.contracts.submission import ModelFormat, TargetCard
from auditor.errors import InvalidInput
from auditor.loading.inspection import interpreted, settle_output
from auditor.loading.onnx_file import read_onnx
from auditor.loading.problems import Problems
from auditor.loading.weights_file import build_with_weights, read_weights
from auditor.targets.base import Target
from auditor.targets.ort_session import OnnxScoreTarget, OrtSession
from auditor.targets.torch_target import TorchTarget


def load_target(path: Path, card: TargetCard, device: torch.device) -> Target:
    """The target that `inspect_model` described in `card`.

    Args:
        path: the same file (its hash is checked).
        card: says which access levels the target offers; without white-box it runs on onnxruntime and has no module.
        device: where it runs.

    Raises:
        InvalidInput: the file is not the one the card describes.
    """
    if digest_of_file(path) != card.digest:
        raise InvalidInput(f"the file of '{card.name}' is not the one that was inspected: its hash differs")
    if card.format is ModelFormat.ONNX:
        return _load_onnx(path, card, device)
    problems = Problems()
    tensors = read_weights(path, card.format, problems, {})
    problems.raise_any()
    module = build_with_weights(
        card.architecture, tensors or {}, n_classes=card.n_classes, channels=card.input.channels, problems=problems
    )
    problems.raise_any()
    if module is None:
        raise InvalidInput(f"the weights of '{card.name}' could not be read")
    return TorchTarget(module, card, device)


def _load_onnx(path: Path, card: TargetCard, device: torch.device) -> Target:
    found = read_onnx(path, card.input, card.n_classes)
    if Access.WHITE_BOX not in card.access:
        model = found.model.SerializeToString()
        return OnnxScoreTarget(OrtSession(model, output=found.output, layout=found.layout, device=device), card, device)
    module, unsupported = interpreted(found)
    if module is None:
        raise InvalidInput(f"'{card.name}' cannot be interpreted: {', '.join(unsupported)}")
    settle_output(module, card.output)
    return TorchTarget(module, card, device)
