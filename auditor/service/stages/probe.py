"""The probe unit: checks a submission, measures this machine on it in seconds, and says what its plan would cost."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from auditor.attacks.base import Attack
from auditor.attacks.catalog import ATTACKS
from auditor.attacks.split.catalog import SPLIT_ATTACKS
from auditor.contracts.access import Access
from auditor.contracts.estimate import PlanEstimate, PriorRates, Rates, Training
from auditor.contracts.jobs import AttackReadiness, UnitSpec
from auditor.contracts.manifest import Manifest
from auditor.contracts.plan import AttackSpec, AuditPlan, PriorSpec
from auditor.contracts.policy import Policy
from auditor.contracts.submission import TargetCard
from auditor.data.bundles import load_bundle
from auditor.data.image_set import ImageSet
from auditor.errors import InvalidInput
from auditor.loading.target_loading import load_target
from auditor.priors.base import Prior, Trait
from auditor.priors.catalog import PRIORS
from auditor.priors.network import AskingBuilder, NetworkPrior
from auditor.priors.resized import fit_prior
from auditor.risk.evidence import effective_access
from auditor.service.budget import cut_to_budget
from auditor.service.estimates import HELDOUT_FRAC, estimate_plan
from auditor.service.matching import PIXEL, SUPPLIED, can_be_made
from auditor.service.stages import check, rates
from auditor.service.stages.attack import prior_of
from auditor.service.stages.means import ReadyPrior, readiness
from auditor.service.workspace import UnitValue, Workspace
from auditor.targets.base import Target
from auditor.targets.views import narrow
from auditor.tensors import RunContext

Sets = Mapping[str, ImageSet]
"""What was given of `private`, `heldout` and `public`."""


def run(unit: UnitSpec, workspace: Workspace, ctx: RunContext) -> UnitValue:
    """Check a submission like the `check` unit, and estimate its plan.

    `unit.params`: those of `check`; `budget_s` (seconds, or None), to which the plan is cut; `keep`: whether to leave
    the files that `check` leaves, with the cut plan among them. `manifest.json` and `policy.json` are inputs. Returns
    the PlanEstimate as `estimate`.

    Raises:
        InvalidInput: what `check` raises; or no attack fits into the budget.
    """
    imports_s = time.process_time()  # of a fresh process that has done nothing but import
    warnings = check.run(unit, workspace, ctx)["warnings"]
    _hand_over(workspace, Path(str(unit.params["model"])))
    policy = Policy.model_validate_json(workspace.input("policy.json").read_text())
    manifest = Manifest.model_validate(unit.params["manifest"])
    plan = AuditPlan.model_validate_json(workspace.input("plan.json").read_text())
    if plan.split is not None:
        raise InvalidInput(
            "what attacks on a cut model cost is not estimated", remedy="Run it without `--budget` or `--explain`."
        )
    ctx = replace(ctx, seed=plan.seed, batch_size=plan.batch_size, autocast_bf16=plan.autocast_bf16)
    target, ready, measured = _measure(workspace, plan, ctx, imports_s)
    estimate = partial(
        estimate_plan,
        policy=policy,
        weights_published=manifest.model.weights_published,
        n_classes=target.n_classes,
        budget_s=None if unit.params.get("budget_s") is None else float(str(unit.params["budget_s"])),
    )
    found: PlanEstimate = estimate(plan, readiness=ready, rates=measured)
    if found.budget_s is not None:
        deployment = effective_access(policy, weights_published=manifest.model.weights_published)
        found = _within(estimate, found, cut_to_budget(found, found.budget_s, policy.thresholds, deployment), ready)
    if unit.params.get("keep"):
        workspace.output("plan.json").write_text(found.plan.model_dump_json())
    else:
        shutil.rmtree(workspace.root / "outputs")
    return {"estimate": found.model_dump(mode="json"), "warnings": warnings}


def _hand_over(workspace: Workspace, model: Path) -> None:
    """Give this unit what `check` left, and the model file, as inputs: what `prepare` will be given."""
    inputs = workspace.root / "inputs"
    inputs.mkdir(parents=True, exist_ok=True)
    for path in (workspace.root / "outputs").iterdir():
        os.link(path, inputs / path.name)
    if not workspace.has("model"):
        (inputs / "model").symlink_to(model.absolute())


def _within(estimate: Any, whole: PlanEstimate, plan: AuditPlan, ready: tuple[AttackReadiness, ...]) -> PlanEstimate:
    """The estimate of a plan that was cut out of `whole`, by the same measurements."""
    if plan == whole.plan or whole.rates is None:
        return whole
    kept, names = {spec.key for spec in plan.attacks}, {prior.name for prior in plan.priors}
    measured = whole.rates.model_copy(
        update={"priors": {name: rate for name, rate in whole.rates.priors.items() if name in names}}
    )
    cut: PlanEstimate = estimate(plan, readiness=[row for row in ready if row.key in kept], rates=measured)
    return cut


def _measure(
    workspace: Workspace, plan: AuditPlan, ctx: RunContext, imports_s: float
) -> tuple[Target, tuple[AttackReadiness, ...], Rates]:
    """The target, what can run on it, and the rates of this machine."""
    started = time.monotonic()
    card = TargetCard.model_validate_json(workspace.input("target.json").read_text())
    target = load_target(workspace.input("model"), card, ctx.device)
    loading_s = time.monotonic() - started
    sets = {
        role: load_bundle(workspace.input(f"{role}.npz"))
        for role in ("private", "heldout", "public")
        if workspace.has(f"{role}.npz")
    }
    ctx.tick("probe", 1, 4)
    priors = blank_priors(workspace, plan, target, has_public="public" in sets, ctx=ctx)
    made = _as_ready(priors, target)
    ready = tuple(
        _split_readiness(spec, target) if spec.name in SPLIT_ATTACKS.names else readiness(spec, made, target)
        for spec in plan.attacks
    )
    specs = {spec.name: spec for spec in plan.priors}
    prior_rates = {name: _prior_rates(prior, specs.get(name), target, sets, ctx) for name, prior in priors.items()}
    ctx.tick("probe", 2, 4)
    aids = _aids(plan, ready, priors, target, sets, ctx)
    ctx.tick("probe", 3, 4)
    evaluator, judge = _witnesses(workspace, plan, target, sets, ctx)
    measured = Rates(
        device=rates.device_name(ctx.device),
        forward=rates.forward_rate(target, ctx),
        gradient=None if target.module is None else rates.gradient_rate(target, ctx),
        priors=prior_rates,
        aids=aids,
        evaluator=evaluator,
        judge=judge,
        n_images={role: len(image_set) for role, image_set in sets.items()},
        weights_bytes=rates.weights_bytes(target, priors),
        unit_s=imports_s + loading_s,
        probe_s=time.monotonic() - started,
    )
    ctx.tick("probe", 4, 4)
    return target, ready, measured


def blank_priors(
    workspace: Workspace, plan: AuditPlan, target: Target, *, has_public: bool, ctx: RunContext
) -> dict[str, Prior]:
    """The priors that this audit would make, of the right shape but untrained; the supplied generator as it is."""
    priors: dict[str, Prior] = {}
    for spec in plan.priors:
        if spec.name == SUPPLIED:
            priors[SUPPLIED] = prior_of(workspace, SUPPLIED, ctx, target.n_classes)
        elif can_be_made(spec.name, target.card.access, has_public=has_public):
            priors[spec.name] = _blank(spec, target, ctx)
    return priors or ({PIXEL: _blank(PriorSpec(name=PIXEL), target, ctx)} if plan.priors else {})


def _blank(spec: PriorSpec, target: Target, ctx: RunContext) -> NetworkPrior:
    builder = PRIORS.build(spec.name, spec.params)
    by_class = builder.access is not None or Trait.CONDITIONAL in builder.traits
    return builder.blank(target.image_shape, target.n_classes if by_class else 0).to(ctx.device)


def _split_readiness(spec: AttackSpec, target: Target) -> AttackReadiness:
    is_cut = target.card.split is not None
    reason = "" if is_cut else "the model is not cut"
    return AttackReadiness(key=spec.key, runnable=is_cut, reason=reason, access=Access.SPLIT)


def _as_ready(priors: Mapping[str, Prior], target: Target) -> dict[str, ReadyPrior]:
    shape = target.image_shape
    return {name: ReadyPrior(fit_prior(prior, shape), "", {}, {}, False, "") for name, prior in priors.items()}


def _prior_rates(prior: Prior, spec: PriorSpec | None, target: Target, sets: Sets, ctx: RunContext) -> PriorRates:
    """Passes of one prior at the target's size, and the first steps of its training where it has any."""
    fitted = fit_prior(prior, target.image_shape)
    refines = isinstance(prior, NetworkPrior) and type(prior).project is NetworkPrior.project
    training, queries = None, 0
    if spec is not None and spec.name not in (SUPPLIED, PIXEL):
        builder = PRIORS.build(spec.name, spec.params)
        images = rates.public_batch(sets.get("public"), target.image_shape, ctx)
        oracle = None if builder.access is None else narrow(target, builder.access)
        training = rates.time_training(lambda c: builder.train(images, c, oracle), ctx)
        if isinstance(builder, AskingBuilder):
            queries = builder.queries(len(sets.get("public", ())), target.n_classes)
    return PriorRates(
        decode=rates.decode_rate(fitted, ctx, gradient=False),
        gradient=rates.decode_rate(fitted, ctx, gradient=True),
        training=training,
        queries=queries,
        refine_steps=prior.refine_steps if isinstance(prior, NetworkPrior) and refines else 0,
    )


def _aids(
    plan: AuditPlan,
    ready: tuple[AttackReadiness, ...],
    priors: Mapping[str, Prior],
    target: Target,
    sets: Sets,
    ctx: RunContext,
) -> dict[str, Training]:
    """The first steps of training helper networks, by attack key."""
    images = rates.public_batch(sets.get("public"), target.image_shape, ctx).images
    trainings = {}
    for spec, row in zip(plan.attacks, ready, strict=True):
        if not row.runnable or row.prior is None:
            continue
        attack: Attack[Any] = ATTACKS.build(spec.name, spec.params)
        if attack.aids(target.image_shape, target.n_classes) is None:
            continue
        view, prior = narrow(target, attack.access), fit_prior(priors[row.prior], target.image_shape)
        trainings[spec.key] = rates.time_training(
            lambda c, attack=attack, view=view, prior=prior, key=spec.key: attack.prepare(  # type: ignore[misc]
                view, prior, images, c, key=key
            ),
            ctx,
        )
    return trainings


def _witnesses(
    workspace: Workspace, plan: AuditPlan, target: Target, sets: Sets, ctx: RunContext
) -> tuple[Training | None, Training | None]:
    """Evaluator and judge, where they would be trained."""
    if "private" not in sets:
        return None, None
    share = 1.0 if "heldout" in sets else 1 - HELDOUT_FRAC
    n_fit = round(share * len(sets["private"]))
    evaluator = rates.evaluator_training(target, sets["private"], n_fit, plan.evaluator, ctx)
    if workspace.has("judge.onnx") or "public" not in sets:
        return evaluator, None
    return evaluator, rates.judge_training(sets["public"], target, plan.judge, ctx)
