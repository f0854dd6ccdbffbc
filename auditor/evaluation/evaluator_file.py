"""Evaluators as files."""

from __future__ import annotations

from pathlib import Path

import torch

from auditor.data.network_file import check_digest, load_exactly, read_network, write_network
from auditor.evaluation.evaluator import TrainedEvaluator
from auditor.evaluation.fingerprints import module_digest
from auditor.targets.architectures import build_architecture

_KIND = "evaluator-1"


def save_evaluator(evaluator: TrainedEvaluator, path: Path) -> str:
    """Write `evaluator` to `path` in one move, and return its digest; equal evaluators give equal bytes."""
    about = {
        "digest": evaluator.digest,
        "architecture": evaluator.architecture,
        "n_classes": evaluator.n_classes,
        "image_shape": list(evaluator.image_shape),
        "seed": evaluator.seed,
        "epochs": evaluator.epochs,
        "training_data_digest": evaluator.training_data_digest,
    }
    write_network(path, _KIND, evaluator.module.state_dict(), about)
    return evaluator.digest


def load_evaluator(path: Path, device: torch.device) -> TrainedEvaluator:
    """The evaluator stored at `path`, bit for bit as it was saved.

    Raises:
        InvalidInput: not an evaluator file, or altered since it was written.
    """
    about, state = read_network(path, _KIND)
    channels, height, width = about["image_shape"]
    module = build_architecture(about["architecture"], n_classes=about["n_classes"], channels=channels)
    load_exactly(module, state, path)
    digest = module_digest(about["architecture"], module)
    check_digest(path, about, digest)
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
