"""Split inference: what passes is recorded in `prepare`; a unit of its own attacks it, and is given nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from auditor.attacks.base import Rows
from auditor.attacks.split.base import SplitAttack
from auditor.attacks.split.catalog import SPLIT_ATTACKS
from auditor.contracts.access import Access
from auditor.contracts.base import digest_of
from auditor.contracts.jobs import AttackReadiness, UnitSpec
from auditor.contracts.plan import AttackSpec, AuditPlan
from auditor.contracts.prepared import AttackCost
from auditor.contracts.submission import TargetCard
from auditor.data.cache import ContentCache
from auditor.data.image_set import ImageSet
from auditor.data.network_file import load_exactly, read_network, write_network
from auditor.errors import UnsupportedModel
from auditor.loading.target_loading import load_target
from auditor.service.pipeline import ACTIVATIONS, NO_PRIOR
from auditor.service.stages.attack import AIDS_FILE, save_reconstructions
from auditor.service.workspace import UnitValue, Workspace
from auditor.targets.base import Target
from auditor.targets.split import SplitTarget, split_at
from auditor.targets.views import QueryCounter, SplitView
from auditor.tensors import Reconstructions, RunContext
from auditor.training import predict


@dataclass(frozen=True)
class Observed:
    """Rows of private images, by class and number within it.

    Attributes:
        index: (N,) int64 rows of the held-out set.
        labels: (N,) int64.
        sample: (N,) int64.
    """

    index: NDArray[np.int64]
    labels: NDArray[np.int64]
    sample: NDArray[np.int64]


def observed_rows(heldout: ImageSet, classes: Sequence[int], per_class: int, ctx: RunContext) -> Observed:
    """At most `per_class` held-out images of each class, the first of a seeded order: always the same ones."""
    labels = np.zeros(0, np.int64) if heldout.labels is None else heldout.labels
    chosen = []
    for label in classes:
        members = np.flatnonzero(labels == label)
        order = torch.randperm(len(members), generator=ctx.rng("split", "observed", label)).numpy()
        chosen.append(members[order][:per_class])
    return Observed(
        index=np.concatenate([*chosen, np.zeros(0, np.int64)]),
        labels=np.repeat(np.asarray(classes, np.int64), [len(rows) for rows in chosen]),
        sample=np.concatenate([*(np.arange(len(rows)) for rows in chosen), np.zeros(0, np.int64)]),
    )


def cut(target: Target) -> SplitTarget:
    """The target, cut where its card says.

    Raises:
        UnsupportedModel: the card says nothing.
    """
    if target.card.split is None:
        raise UnsupportedModel("this model is not cut: name a layer with `--split`")
    return split_at(target, target.card.split.layer)


def record_activations(
    workspace: Workspace,
    target: Target,
    heldout: ImageSet,
    classes: Sequence[int],
    plan: AuditPlan,
    ctx: RunContext,
) -> None:
    """Write what the device sends for held-out private images: all that an attack unit is given of them."""
    rows = observed_rows(heldout, classes, plan.samples_per_class, ctx)
    images = heldout.select(rows.index).batch(target.image_shape).images
    seen = predict(cut(target).encode, images, ctx)
    with workspace.output(ACTIVATIONS).open("wb") as handle:
        np.savez(handle, activations=seen.numpy(), labels=rows.labels, sample=rows.sample)


def ready_split_attack(
    workspace: Workspace,
    spec: AttackSpec,
    target: Target,
    heldout: ImageSet | None,
    public: ImageSet | None,
    ctx: RunContext,
) -> AttackReadiness:
    """Whether the attack can run; its helper networks are trained, or taken from the cache, and written."""
    attack = SPLIT_ATTACKS.build(spec.name, spec.params)
    ready = AttackReadiness(key=spec.key, runnable=True, prior=NO_PRIOR, access=Access.SPLIT)
    reason = ""
    if target.card.split is None:
        reason = "the model is not cut"
    elif heldout is None:
        reason = "it rebuilds held-out private images, and none were given"
    elif attack.aids(target.image_shape, target.card.split.shape) is not None:
        if public is not None:
            return _with_aids(workspace, ready, attack, target, public, ctx)
        reason = "its helper networks need public data"
    return ready.model_copy(update={"runnable": not reason, "reason": reason})


def _with_aids(
    workspace: Workspace,
    ready: AttackReadiness,
    attack: SplitAttack[Any],
    target: Target,
    public: ImageSet,
    ctx: RunContext,
) -> AttackReadiness:
    split = cut(target)

    def build(folder: Path, unfinished: Path) -> None:
        view = SplitView(split, attack.knowledge, QueryCounter())
        images = public.batch(target.image_shape).images
        aids = attack.prepare(view, images, replace(ctx, unfinished=unfinished))
        if aids is not None:
            about = {"target_queries": view.counter.forward}
            write_network(folder / "aids.safetensors", AIDS_FILE, aids.state_dict(), about)

    parts = {
        "recipe": attack.recipe,
        "split": split.point.name,
        "data": public.digest,
        "target": target.card.weights_digest,
        "input": target.card.input.model_dump(mode="json"),
        "seed": ctx.seed,
        "bf16": ctx.autocast_bf16,
        "device": ctx.device.type,
    }
    folder, _ = ContentCache(workspace.cache).load_or_build("split-aids", parts, build)
    about, _ = read_network(folder / "aids.safetensors", AIDS_FILE)
    name = f"aids-{digest_of(ready.key)[:16]}.safetensors"
    workspace.output(name).write_bytes((folder / "aids.safetensors").read_bytes())
    return ready.model_copy(update={"aids": name, "aid_queries": about["target_queries"]})


def run(unit: UnitSpec, workspace: Workspace, ctx: RunContext) -> UnitValue:
    """Rebuild the images behind the activations of `unit.params["classes"]` by `unit.params["attack"]` (AttackSpec).

    Writes `recon.npz` and `outcome.json` as an attack unit does. The confidences are the target's, in the class it
    gave the observed activation; measuring them is the auditor's own doing and not booked.
    """
    plan = AuditPlan.model_validate_json(workspace.input("plan.json").read_text())
    card = TargetCard.model_validate_json(workspace.input("target.json").read_text())
    spec = AttackSpec.model_validate(unit.params["attack"])
    attack = SPLIT_ATTACKS.build(spec.name, spec.params)
    target = load_target(workspace.input("model"), card, ctx.device)
    split = cut(target)
    activations, rows = _observations(workspace, unit.params["classes"])
    view = SplitView(split, attack.knowledge, QueryCounter(limit=plan.max_queries))
    aids = str(unit.params.get("aids", ""))
    trained = _load_aids(attack, workspace.input(aids), split, ctx) if aids else None
    result = attack.run(view, activations, rows, ctx, key=spec.key, aids=trained)
    answered = predict(split.tail, activations, ctx).argmax(dim=1)
    rebuilt = Reconstructions(
        images=result.images,
        labels=rows.labels,
        sample=rows.sample,
        start_confidence=_confidence(target, result.start, answered, ctx),
        end_confidence=_confidence(target, result.images, answered, ctx),
    )
    save_reconstructions(rebuilt, workspace.output("recon.npz"), torch.zeros(0, dtype=torch.int64))
    cost = AttackCost(
        forward_queries=view.counter.forward,
        backward_queries=view.counter.backward,
        complete=result.complete,
        notes=tuple(result.notes),
    )
    workspace.output("outcome.json").write_text(cost.model_dump_json())
    return cost.model_dump(mode="json")


def _observations(workspace: Workspace, classes: Any) -> tuple[Tensor, Rows]:
    """The recorded activations of `classes`."""
    with np.load(workspace.input(ACTIVATIONS), allow_pickle=False) as data:
        chosen = np.isin(data["labels"], list(classes))
        return (
            torch.from_numpy(data["activations"][chosen]),
            Rows(torch.from_numpy(data["labels"][chosen]), torch.from_numpy(data["sample"][chosen])),
        )


def _load_aids(attack: SplitAttack[Any], path: Path, split: SplitTarget, ctx: RunContext) -> nn.ModuleDict:
    aids = attack.aids(split.image_shape, split.point.shape) or nn.ModuleDict()
    _, state = read_network(path, AIDS_FILE)
    load_exactly(aids, state, path)
    return aids.to(ctx.device).eval().requires_grad_(False)


def _confidence(target: Target, images: Tensor, classes: Tensor, ctx: RunContext) -> Tensor:
    """(N,) the target's probability of `classes`."""
    log_probs = predict(target.logits, images, ctx).log_softmax(dim=1)
    return log_probs.gather(1, classes[:, None]).squeeze(1).exp()
