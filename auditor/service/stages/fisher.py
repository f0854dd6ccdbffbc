"""The Fisher unit: layer scores of the target on private images and along the inversions of the attacks it follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from auditor.contracts.fisher import FisherReport
from auditor.contracts.jobs import UnitSpec
from auditor.contracts.plan import AuditPlan, FisherSpec
from auditor.contracts.prepared import PreparedAudit
from auditor.contracts.submission import TargetCard
from auditor.data.bundles import load_bundle
from auditor.data.cache import ContentCache
from auditor.errors import UnsupportedModel
from auditor.fisher.evidence import Course
from auditor.fisher.report import fisher_report
from auditor.loading.target_loading import load_target
from auditor.service.stages.attack import load_reconstructions
from auditor.service.workspace import UnitValue, Workspace
from auditor.targets.preprocess import Preprocess
from auditor.tensors import ImageBatch, RunContext


def run(unit: UnitSpec, workspace: Workspace, ctx: RunContext) -> UnitValue:
    """Score the layers; `unit.params["trajectories"]` lists the attacks to follow and their files with snapshots.

    What was scored before the unit was stopped lies in the cache, and is not scored again.

    Raises:
        UnsupportedModel: there is no differentiable module, no private data, or no white-box attack ran.
    """
    plan = AuditPlan.model_validate_json(workspace.input("plan.json").read_text())
    card = TargetCard.model_validate_json(workspace.input("target.json").read_text())
    prepared = PreparedAudit.model_validate_json(workspace.input("prepared.json").read_text())
    target = load_target(workspace.input("model"), card, ctx.device)
    module = target.module
    if module is None:
        raise UnsupportedModel("layer scores need gradients, and this target is score-level only")
    if not workspace.has("fit.npz"):
        raise UnsupportedModel("layer scores need private images", remedy="Name the private data in the manifest.")
    rows: list[Any] = list(unit.params["trajectories"] or [])  # type: ignore[arg-type]
    courses = [course for row in rows if (course := _course(row, workspace, plan.fisher)) is not None]
    if not courses:
        raise UnsupportedModel("layer scores need the trajectory of a white-box attack, and none ran")

    def build(folder: Path, unfinished: Path) -> None:
        report = fisher_report(
            module,
            Preprocess(card.input),
            load_bundle(workspace.input("fit.npz")).batch(target.image_shape),
            courses,
            placebo(workspace, prepared, plan.fisher.n_classes * plan.fisher.images_per_class, ctx),
            plan.fisher,
            replace(ctx, unfinished=unfinished),
            n_bootstrap=plan.n_bootstrap,
        )
        (folder / "fisher.json").write_text(report.model_dump_json())

    parts = {"inputs": unit.inputs, "params": unit.params, "device": ctx.device.type}
    folder, _ = ContentCache(workspace.cache).load_or_build("fisher", parts, build)
    workspace.output("fisher.json").write_bytes((folder / "fisher.json").read_bytes())
    return {"verdict": FisherReport.model_validate_json((folder / "fisher.json").read_bytes()).verdict}


def _course(row: Mapping[str, Any], workspace: Workspace, spec: FisherSpec) -> Course | None:
    """The snapshots of one attack: those of the first `n_classes` classes; None: it left none."""
    stored = [load_reconstructions(workspace.input(name)) for name in row["files"]]
    stored = [item for item in stored if len(item.snapshot_fracs)]
    if not stored:
        return None
    labels = torch.cat([torch.from_numpy(item.snapshot_labels) for item in stored])
    kept = torch.isin(labels, labels.unique()[: spec.n_classes])
    images = torch.cat([torch.from_numpy(item.snapshots) for item in stored], dim=1)
    return Course(
        attack=str(row["attack"]),
        prior=str(row["prior"]),
        prior_free=bool(row["prior_free"]),
        fracs=tuple(map(float, stored[0].snapshot_fracs)),
        images=images[:, kept],
        labels=labels[kept],
    )


def placebo(workspace: Workspace, prepared: PreparedAudit, n: int, ctx: RunContext) -> ImageBatch:
    """Unguided prior samples with random labels: what a profile looks like when nothing was inverted."""
    with np.load(workspace.input("placebo.npz")) as data:
        images: Tensor = torch.from_numpy(data["images"][:n])
    choice = torch.randint(len(prepared.classes), (len(images),), generator=ctx.rng("fisher", "placebo"))
    return ImageBatch(images, torch.tensor(prepared.classes)[choice])
