"""The Fisher unit: layer scores of the target on private images and along the inversion trajectory."""

from __future__ import annotations

import numpy as np
import torch

from auditor.contracts.jobs import UnitSpec
from auditor.contracts.plan import AuditPlan
from auditor.contracts.prepared import PreparedAudit
from auditor.contracts.submission import TargetCard
from auditor.data.bundles import load_bundle
from auditor.errors import UnsupportedModel
from auditor.fisher.report import fisher_report
from auditor.loading.target_loading import load_target
from auditor.service.stages.attack import load_reconstructions
from auditor.service.workspace import UnitValue, Workspace
from auditor.targets.preprocess import Preprocess
from auditor.tensors import RunContext


def run(unit: UnitSpec, workspace: Workspace, ctx: RunContext) -> UnitValue:
    """Score the layers; `unit.params["trajectory"]` lists the reconstruction files with snapshots.

    Raises:
        UnsupportedModel: there is no differentiable module, no private data, or no white-box attack ran.
    """
    plan = AuditPlan.model_validate_json(workspace.input("plan.json").read_text())
    card = TargetCard.model_validate_json(workspace.input("target.json").read_text())
    prepared = PreparedAudit.model_validate_json(workspace.input("prepared.json").read_text())
    target = load_target(workspace.input("model"), card, ctx.device)
    names = [str(name) for name in unit.params["trajectory"] or []]  # type: ignore[union-attr]
    if target.module is None:
        raise UnsupportedModel("layer scores need gradients, and this target is score-level only")
    if not workspace.has("fit.npz"):
        raise UnsupportedModel("layer scores need private images", remedy="Name the private data in the manifest.")
    stored = [load_reconstructions(workspace.input(name)) for name in names]
    stored = [item for item in stored if len(item.snapshot_fracs)]
    if not stored:
        raise UnsupportedModel("layer scores need the trajectory of a white-box attack, and none ran")
    fit = load_bundle(workspace.input("fit.npz")).batch(target.image_shape)
    spec = plan.fisher
    report = fisher_report(
        target.module,
        Preprocess(card.input),
        fit,
        [
            (float(frac), torch.cat([_images(item.snapshots[i]) for item in stored]))
            for i, frac in enumerate(stored[0].snapshot_fracs)
        ],
        torch.cat([torch.from_numpy(item.snapshot_labels) for item in stored]),
        *placebo(workspace, prepared, spec.n_classes * spec.images_per_class, ctx),
        spec,
        ctx,
        trajectory_attack=str(unit.params["trajectory_attack"]),
        n_bootstrap=plan.n_bootstrap,
    )
    workspace.output("fisher.json").write_text(report.model_dump_json())
    return {"verdict": report.verdict}


def _images(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).float() / 255


def placebo(
    workspace: Workspace, prepared: PreparedAudit, n: int, ctx: RunContext
) -> tuple[torch.Tensor, torch.Tensor]:
    """Unguided prior samples with random labels: what a profile looks like when nothing was inverted."""
    with np.load(workspace.input("placebo.npz")) as data:
        images = _images(data["images"])[:n]
    choice = torch.randint(len(prepared.classes), (len(images),), generator=ctx.rng("fisher", "placebo"))
    return images, torch.tensor(prepared.classes)[choice]
