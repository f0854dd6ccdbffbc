"""Evaluators as files: one safetensors file with its description under one metadata key.

One key, since the library writes several in an order that differs from run to run.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from auditor.contracts.base import canonical_json
from auditor.errors import InvalidInput
from auditor.evaluation.evaluator import TrainedEvaluator
from auditor.evaluation.fingerprints import module_digest
from auditor.targets.architectures import build_architecture

_FORMAT = "auditor-evaluator-1"


def save_evaluator(evaluator: TrainedEvaluator, path: Path) -> str:
    """Write `evaluator` to `path` in one move, and return its digest; equal evaluators give equal bytes."""
    about = {
        "format": _FORMAT,
        "digest": evaluator.digest,
        "architecture": evaluator.architecture,
        "n_classes": evaluator.n_classes,
        "image_shape": list(evaluator.image_shape),
        "seed": evaluator.seed,
        "epochs": evaluator.epochs,
        "training_data_digest": evaluator.training_data_digest,
    }
    state = {name: value.detach().cpu().contiguous() for name, value in evaluator.module.state_dict().items()}
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(save(state, {"auditor": canonical_json(about)}))
    temporary.replace(path)
    return evaluator.digest


def load_evaluator(path: Path, device: torch.device) -> TrainedEvaluator:
    """The evaluator stored at `path`, bit for bit as it was saved.

    Raises:
        InvalidInput: not an evaluator file, or altered since it was written.
    """
    try:
        with safe_open(path, framework="pt") as handle:
            about = json.loads((handle.metadata() or {}).get("auditor", "{}"))
            state = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InvalidInput(f"'{path.name}' is not an evaluator file: {error}") from None
    if about.get("format") != _FORMAT:
        raise InvalidInput(f"'{path.name}' is not an evaluator file of this version")
    channels, height, width = about["image_shape"]
    module = build_architecture(about["architecture"], n_classes=about["n_classes"], channels=channels)
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise InvalidInput(f"'{path.name}' does not fit its own description: {error}") from None
    digest = module_digest(about["architecture"], module)
    if digest != about["digest"]:
        raise InvalidInput(f"'{path.name}' was altered after it was written")
    return TrainedEvaluator(
        module=module.to(device).to(memory_format=torch.channels_last).eval(),  # type: ignore[call-overload]
        architecture=about["architecture"],
        n_classes=about["n_classes"],
        image_shape=(channels, height, width),
        digest=digest,
        seed=about["seed"],
        epochs=about["epochs"],
        training_data_digest=about["training_data_digest"],
    )
