"""What attacks are given beside the target: priors, and helper networks; trained once, or taken from the cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from auditor.attacks.catalog import ATTACKS
from auditor.contracts.base import digest_of, digest_of_file
from auditor.contracts.jobs import AttackReadiness
from auditor.contracts.plan import AttackSpec, AuditPlan
from auditor.data.cache import ContentCache
from auditor.data.image_set import ImageSet
from auditor.data.network_file import read_network, write_network
from auditor.priors.base import Prior
from auditor.priors.catalog import PRIORS
from auditor.priors.resized import fit_prior
from auditor.priors.storage import load_prior, save_prior
from auditor.service.matching import PIXEL, can_be_made, choose_prior, needs_pixel
from auditor.service.stages.attack import AIDS_FILE, prior_of
from auditor.service.workspace import Workspace
from auditor.targets.base import Target, offers
from auditor.targets.views import narrow
from auditor.tensors import ImageBatch, RunContext


@dataclass(frozen=True)
class ReadyPrior:
    """A prior of this audit.

    Attributes:
        prior: as attacks see it, at the target's size.
        source: `trained` or `supplied`.
        config: its builder's parameters.
        quality: figures from its training.
        cached: taken from the cache.
        training_data_digest: of the public images.
        target_queries: images its training sent to the target.
    """

    prior: Prior
    source: str
    config: dict[str, Any]
    quality: dict[str, float]
    cached: bool
    training_data_digest: str
    target_queries: int = 0


def ready_priors(
    workspace: Workspace, plan: AuditPlan, target: Target, public: ImageSet | None, ctx: RunContext
) -> dict[str, ReadyPrior]:
    """Every prior of the plan, trained or from the cache; without public data those that know nothing.

    A prior made for this target is left out where the target does not offer the access its training needs.
    """
    images = None if public is None else public.batch(target.image_shape)
    digest = "" if public is None else public.digest
    ready: dict[str, ReadyPrior] = {}
    for spec in plan.priors:
        if spec.name == "onnx":
            supplied = fit_prior(prior_of(workspace, "onnx", ctx, target.n_classes), target.image_shape)
            ready["onnx"] = ReadyPrior(supplied, "supplied", {}, {}, False, _digest_of_generator(workspace))
            continue
        if can_be_made(spec.name, target.card.access, has_public=public is not None):
            ready[spec.name] = _trained(workspace, spec.name, dict(spec.params), target, images, digest, ctx)
    if needs_pixel(plan, {name: made.prior.traits for name, made in ready.items()}):
        ready[PIXEL] = _trained(workspace, PIXEL, {}, target, None, "", ctx)
    return ready


def _digest_of_generator(workspace: Workspace) -> str:
    """Of the one file, or of both."""
    names = [name for name in ("generator.onnx", "generator-mapping.onnx") if workspace.has(name)]
    digests = [digest_of_file(workspace.input(name)) for name in names]
    return digests[0] if len(digests) == 1 else digest_of(digests)


def _trained(
    workspace: Workspace,
    name: str,
    params: Mapping[str, Any],
    target: Target,
    public: ImageBatch | None,
    data_digest: str,
    ctx: RunContext,
) -> ReadyPrior:
    """A prior from the cache, or trained now; only its latents and weights are kept, never the public images."""
    builder = PRIORS.build(name, params)
    config = PRIORS.configure(name, params).model_dump(mode="json")
    images = public.images if public is not None else torch.zeros(1, *target.image_shape)

    def build(folder: Path, unfinished: Path) -> None:
        oracle = None if builder.access is None else narrow(target, builder.access)
        prior = builder.train(ImageBatch(images), replace(ctx, unfinished=unfinished), oracle)
        prior.target_queries = 0 if oracle is None else oracle.counter.forward
        save_prior(prior, folder / "prior.safetensors")

    parts = {
        "name": name,
        "config": config,
        "data": data_digest,
        "target": None if builder.access is None else _as_read(target),
        **surroundings(target, ctx),
    }
    folder, cached = ContentCache(workspace.cache).load_or_build("prior", parts, build)
    prior = load_prior(folder / "prior.safetensors", ctx.device)
    return ReadyPrior(prior, "trained", config, prior.quality, cached, data_digest, prior.target_queries)


def _as_read(target: Target) -> dict[str, Any]:
    """What decides the target's answers, and what of it is public: file, preparation of its input, kind of output."""
    return target.card.model_dump(mode="json", include={"digest", "architecture", "input", "output", "public_front"})


def surroundings(target: Target, ctx: RunContext) -> dict[str, Any]:
    """What else decides the weights that a training ends with."""
    return {
        "shape": list(target.image_shape),
        "seed": ctx.seed,
        "bf16": ctx.autocast_bf16,
        "device": ctx.device.type,
    }


def projections(workspace: Workspace, prior: Prior, heldout: ImageSet, target: Target, ctx: RunContext) -> Tensor:
    """(N, D) latents of the held-out images; from the cache where this prior met them before, as in another audit."""

    def build(folder: Path, _unfinished: Path) -> None:
        batch = heldout.batch(target.image_shape)
        save_file({"latents": prior.project(batch.images, ctx, batch.labels).cpu()}, folder / "latents.safetensors")

    parts = {"prior": prior.digest, "data": heldout.digest, **surroundings(target, ctx)}
    folder, _ = ContentCache(workspace.cache).load_or_build("projection", parts, build)
    latents: Tensor = load_file(folder / "latents.safetensors")["latents"]
    return latents


def readiness(spec: AttackSpec, priors: Mapping[str, ReadyPrior], target: Target) -> AttackReadiness:
    """Whether an attack can run on this target with these priors, and with which of them."""
    attack = ATTACKS.build(spec.name, spec.params)
    prior = choose_prior(spec, type(attack), {name: ready.prior.traits for name, ready in priors.items()})
    inapplicable, reason = "", ""
    if not offers(target, attack.access):
        reason = f"the target offers {', '.join(target.card.access)} access only, this attack needs {attack.access}"
    elif inapplicable := attack.inapplicable(target):
        reason = inapplicable
    elif prior is None:
        wanted = spec.prior or attack.default_prior
        what = f"prior '{wanted}'" if wanted else "a prior"
        needs = "".join(f" with the trait '{trait}'" for trait in sorted(attack.needs))
        reason = f"needs {what}{needs}, which needs public data and a place in the plan"
    return AttackReadiness(
        key=spec.key,
        runnable=not reason,
        reason=reason,
        prior=prior,
        access=attack.access,
        inapplicable=bool(inapplicable),
    )


def train_aids(
    workspace: Workspace,
    ready: AttackReadiness,
    spec: AttackSpec,
    priors: Mapping[str, ReadyPrior],
    target: Target,
    public: ImageSet | None,
    ctx: RunContext,
) -> AttackReadiness:
    """`ready` with the file of the attack's helper networks, which is written; as it is where it needs none."""
    attack = ATTACKS.build(spec.name, spec.params)
    if not ready.runnable or ready.prior is None or attack.aids(target.image_shape, target.n_classes) is None:
        return ready
    if public is None:
        return ready.model_copy(update={"runnable": False, "reason": "its helper networks need public data"})
    prior, images = priors[ready.prior].prior, public.batch(target.image_shape).images

    def build(folder: Path, unfinished: Path) -> None:
        view = narrow(target, attack.access)
        aids = attack.prepare(view, prior, images, replace(ctx, unfinished=unfinished), key=spec.key)
        if aids is not None:
            about = {"target_queries": view.counter.forward}
            write_network(folder / "aids.safetensors", AIDS_FILE, aids.state_dict(), about)

    parts = {
        "attack": spec.name,
        "key": spec.key,
        "config": attack.config.model_dump(mode="json"),
        "prior": prior.digest,
        "data": public.digest,
        "target": _as_read(target),
        **surroundings(target, ctx),
    }
    folder, _ = ContentCache(workspace.cache).load_or_build("aids", parts, build)
    about, _ = read_network(folder / "aids.safetensors", AIDS_FILE)
    name = f"aids-{digest_of(spec.key)[:16]}.safetensors"
    workspace.output(name).write_bytes((folder / "aids.safetensors").read_bytes())
    return ready.model_copy(update={"aids": name, "aid_queries": about["target_queries"]})
