"""The public stage of a repair: starting weights, supplied by the team or trained once and shared by all boundaries."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from auditor.contracts.base import digest_of_file
from auditor.contracts.jobs import WEIGHTS, WEIGHTS_ORIGIN
from auditor.contracts.submission import ModelFormat
from auditor.data.cache import ContentCache
from auditor.errors import InvalidInput
from auditor.evaluation.mirroring import mirrors_fit
from auditor.loading.problems import Problems
from auditor.loading.weights_file import read_weights
from auditor.tensors import RunContext
from auditor.training import fit_classifier, top_k_accuracy
from remediation.heads import replace_head
from remediation.model_source import SUBMITTED_GRAPH
from remediation.preparation import Network, RepairInputs
from remediation.pretraining import PublicTask, public_task

_RECORD = "accuracy.txt"
_UNCHECKED = "That the supplied weights never saw private data is the team's statement; it cannot be verified."


@dataclass(frozen=True)
class PublicWeights:
    """Weights of everything but the head.

    Attributes:
        tensors: by name.
        described: where they come from.
        notes: remarks for the report.
        trained_here: on the public data alone, so that nothing about them has to be believed.
    """

    tensors: Mapping[str, Tensor]
    described: str
    notes: tuple[str, ...] = ()
    trained_here: bool = False


def public_weights(inputs: RepairInputs, network: Network, ctx: RunContext) -> PublicWeights:
    """The supplied or fetched weights, else those pre-trained on the public data (cached when trained before).

    Raises:
        InvalidInput: neither weights nor public data, or weights that cannot be had or read.
    """
    if inputs.workspace.has(WEIGHTS):
        return _supplied(inputs)
    public = inputs.public()
    if public is None:
        raise InvalidInput(
            "a repair needs weights that never saw the private data: neither public data nor `--weights` was given",
            remedy="Name public data in the manifest (`data.public`), or pass `--weights FILE` (or torchvision:NAME).",
        )
    batch = public.batch(inputs.shape)
    task = public_task(batch, inputs.defense.config.pretrain_objective, ctx.rng("repair", "public-split"))
    flip = task.objective == "labels" and mirrors_fit(batch, ctx)
    folder, cached = ContentCache(inputs.workspace.cache).load_or_build(
        "pretrained",
        _cache_key(inputs, public.digest, task, ctx),
        lambda folder, _unfinished: _pretrain(inputs, network, task, flip, ctx, folder),
    )
    accuracy = float((folder / _RECORD).read_text())
    notes = []
    if accuracy <= 1.5 * task.chance:
        notes.append(
            f"Pre-training learned little: {accuracy:.3f} of images set aside, guessing gives {task.chance:.3f}. "
            "Expect accuracy to fall with every frozen unit."
        )
    described = f"{task.described}; {accuracy:.3f} right on images set aside{' (from the cache)' if cached else ''}"
    return PublicWeights(load_file(folder / WEIGHTS), described, tuple(notes), trained_here=True)


def _supplied(inputs: RepairInputs) -> PublicWeights:
    path = inputs.workspace.input(WEIGHTS)
    problems = Problems()
    tensors = read_weights(path, ModelFormat.SAFETENSORS, problems, {})
    problems.raise_any()
    described = f"weights supplied by the team (sha256 {digest_of_file(path)}), stated to be public"
    if inputs.workspace.has(WEIGHTS_ORIGIN):
        described = inputs.workspace.input(WEIGHTS_ORIGIN).read_text()
    return PublicWeights(tensors or {}, described, (_UNCHECKED,))


def _cache_key(inputs: RepairInputs, data_digest: str, task: PublicTask, ctx: RunContext) -> dict[str, Any]:
    network = inputs.source.description
    return {
        "network": network if network != SUBMITTED_GRAPH else inputs.card.architecture,
        "input": inputs.card.input.model_dump(mode="json"),
        "data": data_digest,
        "objective": task.objective,
        "training": inputs.defense.config.pretraining.model_dump(mode="json"),
        "seed": ctx.seed,
        "bf16": ctx.autocast_bf16,
        "device": ctx.device.type,
    }


def _pretrain(
    inputs: RepairInputs, network: Network, task: PublicTask, flip: bool, ctx: RunContext, folder: Path
) -> None:
    module: nn.Module = copy.deepcopy(network.module)
    head = replace_head(module, network.head_path, task.n_outputs, ctx.rng("repair", "public-head"))
    prepare = inputs.prepare
    fit_classifier(
        module, task.train, task.validation, inputs.defense.config.pretraining, ctx,
        stage="repair-pretrain", prepare=prepare, flip=flip,
    )  # fmt: skip
    accuracy = top_k_accuracy(module, task.validation, ctx, prepare=prepare)
    state = module.state_dict()
    if not all(bool(torch.isfinite(value).all()) for value in state.values()):
        raise InvalidInput("pre-training diverged", remedy="Take a lower `pretrain_lr` in `repair.params`.")
    save_file(
        {name: value.cpu().contiguous().clone() for name, value in state.items() if name not in head}, folder / WEIGHTS
    )
    (folder / _RECORD).write_text(repr(accuracy))
