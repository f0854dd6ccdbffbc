"""The demo's submission: renders the data, trains a small target, and writes model, data and manifest into a folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from auditor.contracts.manifest import DataSection, DataSpec, InputSpec, Manifest, ModelSpec, PlanSection, RepairBudget
from auditor.contracts.manifest_file import write_manifest
from auditor.data.image_set import ImageSet
from auditor.demo.sources import demo_data
from auditor.demo.target import train_demo_target
from auditor.loading.onnx_export import export_onnx
from auditor.tensors import RunContext
from auditor.training import top_k_accuracy

MAX_CLASSES, SAMPLES = 20, 2
PLAN: dict[str, Any] = {
    "n_control_samples": 1000,
    "n_bootstrap": 500,
    "evaluator": {"architecture": "auto", "epochs": 10},
    "judge": {"epochs": 2, "embedding_dim": 128},
    "fisher": {"n_classes": 20, "images_per_class": 3, "exact_up_to": 1, "label_samples": 2},
}
"""A plan sized for two cores and a few minutes; the presets are for real audits."""
_PPA: dict[str, Any] = {"pool": 1000, "candidates": 1, "steps": 40, "transforms": 8}
ATTACKS: tuple[dict[str, Any], ...] = (
    {"name": "ppa", "params": _PPA},
    {"name": "ppa", "label": "ppa-averaged", "params": _PPA | {"averaged": 2}},
    {"name": "mirror-b", "params": {"pool": 1000, "population": 20, "generations": 8}},
)
REPAIR: dict[str, Any] = {"epochs": 12, "lr": 4e-3, "pretrain_epochs": 8, "n_boundaries": 2}


def _priors(flip: bool) -> tuple[dict[str, Any], ...]:
    """The default prior, without its convolutional part: fitted in seconds, and strong on aligned images."""
    return ({"name": "vae", "params": {"latent_dim": 256, "steps": 0, "flip": flip}},)


@dataclass(frozen=True)
class DemoSubmission:
    """What was written.

    Attributes:
        model: the ONNX file.
        manifest: auditor.yaml.
        description: what the data is, in plain words.
        target_summary: architecture and held-out accuracy of the target.
    """

    model: Path
    manifest: Path
    description: str
    target_summary: str


def write_submission(
    out: Path, data: str, *, size: int, seed: int, on_step: Callable[[str, int, int], None] = lambda *_: None
) -> DemoSubmission:
    """Write `model.onnx`, the image sets as npz and `auditor.yaml` into `out`.

    Args:
        out: folder, made when needed.
        data: name of a demo source.
        size: side of the images in pixels.
        seed: of data and target.
        on_step: receives (stage, done, total).
    """
    out.mkdir(parents=True, exist_ok=True)
    sets = demo_data(data, size, seed)
    channels = int(sets.private.images.shape[3])
    shape, n_classes = (channels, size, size), len(sets.private.class_names)
    ctx = RunContext(seed=seed, on_tick=on_step)
    network = train_demo_target(sets.private, shape, n_classes, ctx, flip=sets.mirror_keeps_class)
    accuracy = top_k_accuracy(network, sets.heldout.batch(shape), ctx)
    spec = InputSpec(channels=channels, height=size, width=size)
    export_onnx(network, spec, out / "model.onnx", n_classes=n_classes)
    for role in ("private", "heldout", "public"):
        _write_npz(getattr(sets, role), out / f"{role}.npz")
    manifest = Manifest(
        model=ModelSpec(name=f"demo-{data}", input=spec, n_classes=n_classes),
        data=DataSection(**{role: DataSpec(path=Path(f"{role}.npz")) for role in ("private", "heldout", "public")}),
        plan=PlanSection.model_validate(
            {
                "preset": "quick",
                "seed": seed,
                "n_classes": min(MAX_CLASSES, n_classes),
                "samples_per_class": SAMPLES,
                "attacks": ATTACKS,
                "priors": _priors(sets.mirror_keeps_class),
                "overrides": PLAN,
            }
        ),
        repair=RepairBudget(max_accuracy_loss=0.10, params=REPAIR),
    )
    write_manifest(manifest, out / "auditor.yaml")
    return DemoSubmission(
        model=out / "model.onnx",
        manifest=out / "auditor.yaml",
        description=sets.description,
        target_summary=f"small-cnn, {n_classes} classes, {len(sets.private)} images, held-out top-1 {accuracy:.3f}",
    )


def _write_npz(image_set: ImageSet, path: Path) -> None:
    np.savez_compressed(path, images=image_set.images, labels=np.asarray(image_set.labels))
