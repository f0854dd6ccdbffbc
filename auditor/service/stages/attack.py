"""The attack unit: one attack against one chunk of classes. It is given the model and a prior, and no private image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from auditor.attacks.base import Attack
from auditor.attacks.catalog import ATTACKS
from auditor.contracts.access import Access
from auditor.contracts.jobs import UnitSpec
from auditor.contracts.manifest import Manifest
from auditor.contracts.plan import AttackSpec, AuditPlan
from auditor.contracts.prepared import AttackCost
from auditor.contracts.submission import TargetCard
from auditor.data.network_file import load_exactly, read_network
from auditor.loading.generator import load_generator
from auditor.loading.target_loading import load_target
from auditor.priors.base import Prior
from auditor.priors.resized import fit_prior
from auditor.priors.storage import load_prior
from auditor.service.workspace import UnitValue, Workspace
from auditor.targets.base import Target, offers
from auditor.targets.compiled import CompiledTarget
from auditor.targets.views import narrow
from auditor.tensors import Reconstructions, RunContext, Snapshot

AIDS_FILE = "aids-1"
"""Kind and version of the file with an attack's helper networks."""


def run(unit: UnitSpec, workspace: Workspace, ctx: RunContext) -> UnitValue:
    """Run `unit.params["attack"]` (AttackSpec) against `unit.params["classes"]` with the prior `unit.params["prior"]`.

    Writes `recon.npz`: 8-bit images, labels, confidences, and for white-box attacks the snapshots Fisher asks for.
    """
    plan = AuditPlan.model_validate_json(workspace.input("plan.json").read_text())
    card = TargetCard.model_validate_json(workspace.input("target.json").read_text())
    spec = AttackSpec.model_validate(unit.params["attack"])
    classes = tuple(int(label) for label in _list(unit.params["classes"]))
    attack = ATTACKS.build(spec.name, spec.params)
    target = load_target(workspace.input("model"), card, ctx.device)
    prior = fit_prior(prior_of(workspace, str(unit.params["prior"]), ctx, target.n_classes), target.image_shape)
    compiled = CompiledTarget(target) if plan.compile else None
    view = narrow(compiled or target, attack.access, max_queries=plan.max_queries)
    aids = str(unit.params.get("aids", ""))
    wants_snapshots = plan.fisher.enabled and attack.access is Access.WHITE_BOX
    result = attack.run(
        view,
        prior,
        classes,
        plan.samples_per_class,
        ctx,
        key=spec.key,
        snapshot_fracs=plan.fisher.trajectory if wants_snapshots else (),
        witness=narrow(target, Access.SCORE) if offers(target, Access.SCORE) else None,
        aids=load_aids(attack, workspace.input(aids), target, ctx) if aids else None,
    )
    save_reconstructions(result, workspace.output("recon.npz"), _snapshot_rows(result.labels, plan))
    planned = attack.cost(len(classes), plan.samples_per_class, target.n_classes)
    cost = AttackCost(
        forward_queries=view.counter.forward,
        backward_queries=view.counter.backward,
        pool_queries=0 if planned is None else min(planned.shared, view.counter.forward),
        complete=result.complete,
        notes=(*result.notes, *(compiled.notes if compiled else ())),
    )
    workspace.output("outcome.json").write_text(cost.model_dump_json())
    return cost.model_dump(mode="json")


def prior_of(workspace: Workspace, name: str, ctx: RunContext, n_classes: int) -> Prior:
    """The prior called `name` from the unit's inputs; `onnx` is the team's own generator.

    `n_classes` are the target's.
    """
    if name == "onnx":
        manifest = Manifest.model_validate_json(workspace.input("manifest.json").read_text())
        if manifest.data.generator is None:
            raise ValueError("the manifest names no generator")
        spec = manifest.data.generator
        drawing, *mapping = [workspace.input(file) for file in spec.files]
        return load_generator(drawing, spec, ctx.device, mapping=next(iter(mapping), None), n_classes=n_classes)
    prior: Prior = load_prior(workspace.input(f"prior-{name}.safetensors"), ctx.device)
    return prior


def load_aids(attack: Attack[Any], path: Path, target: Target, ctx: RunContext) -> nn.ModuleDict:
    """The helper networks stored at `path`, frozen and in eval mode.

    Raises:
        InvalidInput: the file is not of this attack and configuration.
    """
    aids = attack.aids(target.image_shape, target.n_classes) or nn.ModuleDict()
    _, state = read_network(path, AIDS_FILE)
    load_exactly(aids, state, path)
    return aids.to(ctx.device).eval().requires_grad_(False)


def _list(value: object) -> Sequence[int]:
    if not isinstance(value, list):
        raise TypeError("expected a list")
    return value


def _snapshot_rows(labels: Tensor, plan: AuditPlan) -> Tensor:
    """Rows whose snapshots are kept: a few per class, for the first classes of the chunk."""
    kept: dict[int, int] = {}
    rows = []
    for row, label in enumerate(labels.tolist()):
        if label not in kept and len(kept) >= plan.fisher.n_classes:
            continue
        if kept.get(label, 0) < plan.fisher.images_per_class:
            kept[label] = kept.get(label, 0) + 1
            rows.append(row)
    return torch.tensor(rows, dtype=torch.int64)


@dataclass(frozen=True)
class StoredReconstructions:
    """What `recon.npz` holds, as it is judged.

    Attributes:
        images: (N, C, H, W) uint8.
        labels: (N,) int64.
        sample: (N,) int64.
        start_confidence: (N,) float32.
        end_confidence: (N,) float32.
        snapshot_fracs: (T,) float64, may be empty.
        snapshot_labels: (M,) int64.
        snapshots: (T, M, C, H, W) uint8.
    """

    images: np.ndarray
    labels: np.ndarray
    sample: np.ndarray
    start_confidence: np.ndarray
    end_confidence: np.ndarray
    snapshot_fracs: np.ndarray
    snapshot_labels: np.ndarray
    snapshots: np.ndarray


def _bytes(images: Tensor) -> np.ndarray:
    """8-bit rounding: pictures are judged as they would be stored."""
    rounded: np.ndarray = (images.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    return rounded


def save_reconstructions(result: Reconstructions, path: Path, snapshot_rows: Tensor) -> None:
    """Write `recon.npz`."""
    snapshots: tuple[Snapshot, ...] = result.snapshots
    stacked = np.stack([_bytes(s.images[snapshot_rows]) for s in snapshots]) if snapshots else np.zeros((0,), np.uint8)
    with path.open("wb") as handle:
        np.savez(
            handle,
            images=_bytes(result.images),
            labels=result.labels.numpy(),
            sample=result.sample.numpy(),
            start_confidence=result.start_confidence.numpy(),
            end_confidence=result.end_confidence.numpy(),
            snapshot_fracs=np.array([s.frac for s in snapshots]),
            snapshot_labels=result.labels[snapshot_rows].numpy() if snapshots else np.zeros(0, np.int64),
            snapshots=stacked,
        )


def load_reconstructions(path: Path) -> StoredReconstructions:
    """Read `recon.npz`."""
    with np.load(path, allow_pickle=False) as data:
        return StoredReconstructions(**{name: data[name] for name in data.files})
