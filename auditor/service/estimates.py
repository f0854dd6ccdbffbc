"""What a plan costs: each attack's own counts, times what a probe measured on this machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from auditor.attacks.base import Attack
from auditor.attacks.catalog import ATTACKS
from auditor.attacks.split.catalog import SPLIT_ATTACKS, catalog_of
from auditor.contracts.access import Access
from auditor.contracts.cost import Cost
from auditor.contracts.estimate import AttackEstimate, PlanEstimate, PriorRates, Rate, Rates, StepEstimate
from auditor.contracts.jobs import AttackReadiness
from auditor.contracts.plan import AttackSpec, AuditPlan
from auditor.contracts.policy import Policy
from auditor.risk.at_work import searching
from auditor.risk.evidence import effective_access
from auditor.service.budget import obstacles
from auditor.service.matching import choose_prior, planned_traits
from auditor.service.pipeline import CONTROL_ATTACK, followed
from auditor.service.plans import FISHER
from auditor.service.vetted import unvetted

HELDOUT_FRAC = 0.2
QUALITY_IMAGES = 128
"""Images on which a prior's quality is measured after its training."""
_LAYER_PASS = 3.0
"""Gradients with respect to every weight, per sample, against one with respect to the image; measured 2 to 4."""


def estimate_plan(
    plan: AuditPlan,
    policy: Policy,
    *,
    weights_published: bool = False,
    n_classes: int | None = None,
    readiness: Sequence[AttackReadiness] = (),
    rates: Rates | None = None,
    budget_s: float | None = None,
) -> PlanEstimate:
    """Counts, and with `rates` times, of everything the plan does; what is in the cache from before costs nothing.

    Args:
        plan: the whole plan.
        policy: the effective policy.
        weights_published: as the manifest says.
        n_classes: classes of the target; None: not known, then counts are of one class.
        readiness: what can run and with which prior; empty: everything, judged by the catalogs alone.
        rates: from a probe; None: no times.
        budget_s: for the record.
    """
    attacked = None if n_classes is None else min(plan.n_classes or n_classes, n_classes)
    attacked = plan.n_classes if n_classes is None else attacked
    ready = {row.key: row for row in readiness}
    rows = [
        _attack(spec, ready.get(spec.key) or _expected(spec, plan), plan, attacked, n_classes, rates)
        for spec in plan.attacks
    ]
    for prior in dict.fromkeys(row.prior for row in rows if row.runnable and row.prior):
        control = AttackSpec(name=CONTROL_ATTACK, prior=prior, label=f"control/{prior}")
        expected = AttackReadiness(key=control.key, runnable=True, prior=prior, access=Access.SCORE)
        rows.append(_attack(control, expected, plan, attacked, n_classes, rates))
    deployment = effective_access(policy, weights_published=weights_published)
    return PlanEstimate(
        plan=plan,
        n_attacked=attacked,
        attacks=tuple(rows),
        steps=() if rates is None else _steps(plan, rows, rates, attacked or 1, n_classes or 1),
        rates=rates,
        budget_s=budget_s,
        obstacles=obstacles(plan, rows, attacked, policy.thresholds, deployment),
    )


def _expected(spec: AttackSpec, plan: AuditPlan) -> AttackReadiness:
    """What the catalogs alone say: there is no target to look at."""
    if spec.name in SPLIT_ATTACKS.names:
        return AttackReadiness(key=spec.key, runnable=plan.split is not None, access=Access.SPLIT)
    attack = ATTACKS.get(spec.name)
    prior = choose_prior(spec, attack, planned_traits(plan))
    return AttackReadiness(key=spec.key, runnable=True, prior=prior or spec.prior, access=attack.access)


def _attack(
    spec: AttackSpec,
    ready: AttackReadiness,
    plan: AuditPlan,
    attacked: int | None,
    n_classes: int | None,
    rates: Rates | None,
) -> AttackEstimate:
    attack = catalog_of(spec.name).build(spec.name, spec.params)
    row = AttackEstimate(
        key=spec.key,
        attack=spec.name,
        access=attack.access,
        prior=ready.prior,
        adaptive=attack.adaptive,
        unvetted=unvetted(spec),
        is_control=isinstance(attack, Attack) and attack.is_control,
        runnable=ready.runnable,
        reason=ready.reason,
    )
    units = None  # what it costs to read a cut model is not estimated
    if isinstance(attack, Attack):
        units = unit_costs(attack, plan, attacked or 1, n_classes or attacked or 1)
    if not ready.runnable or units is None:
        return row
    total = _total(units)
    once = total.once
    prior = rates.priors.get(ready.prior or "") if rates else None
    seconds = memory = None
    if rates is not None:
        training = rates.aids.get(spec.key)
        once += prior.queries if prior else 0
        rows = min(attacked or 1, plan.classes_per_unit) * plan.samples_per_class
        seconds = _seconds(total, prior, rates, min(plan.batch_size, rows)) + len(units) * rates.unit_s
        seconds += training.seconds if training else 0.0
        memory = _memory(units[0], prior, rates, plan.batch_size)
    searches = searching(attack.access, forward=total.forward, backward=total.backward, pool=total.shared, shared=once)
    known = total.forward > 0 or prior is not None  # what a prior's training asks is known by the probe only
    return row.model_copy(
        update={
            "cost": total,
            "per_class": math.ceil((total.forward - total.shared) / (attacked or 1)),
            "shared": total.shared + once,
            "effort": searches / ((attacked or 1) * plan.samples_per_class) if known else None,
            "seconds": seconds,
            "memory_bytes": memory,
        }
    )


def unit_costs(attack: Attack[Any], plan: AuditPlan, attacked: int, n_classes: int) -> tuple[Cost, ...] | None:
    """The cost of each of the attack's units; None when its method does not say."""
    size = plan.classes_per_unit
    chunks = [min(size, attacked - start) for start in range(0, attacked, size)]
    costs = [attack.cost(chunk, plan.samples_per_class, n_classes) for chunk in chunks]
    return tuple(_limited(cost, plan.max_queries) for cost in costs if cost is not None) if None not in costs else None


def _limited(cost: Cost, max_queries: int | None) -> Cost:
    """What remains of a unit's cost under the plan's query budget, in proportion."""
    if max_queries is None or cost.forward <= max_queries:
        return cost
    share = max_queries / cost.forward
    names = ("forward", "backward", "shared", "decodes", "gradient_decodes", "helper_passes")
    return cost.model_copy(update={name: round(getattr(cost, name) * share) for name in names} | {"bound": True})


def _total(units: Sequence[Cost]) -> Cost:
    """All units together; what is asked once per target counts once."""
    names = ("forward", "backward", "shared", "decodes", "gradient_decodes", "helper_passes")
    sums = {name: sum(getattr(cost, name) for cost in units) for name in names}
    return Cost(**sums, once=units[0].once, bound=any(cost.bound for cost in units))


def _seconds(cost: Cost, prior: PriorRates | None, rates: Rates, batch: int) -> float:
    gradient = rates.gradient or rates.forward
    passes: list[tuple[Rate | None, int]] = [
        (rates.forward, cost.forward - cost.backward),
        (gradient, cost.backward + cost.helper_passes),
        (prior.decode if prior else None, cost.decodes),
        (prior.gradient if prior else None, cost.gradient_decodes),
    ]
    return sum(rate.seconds(n, batch) for rate, n in passes if rate is not None)


def _memory(cost: Cost, prior: PriorRates | None, rates: Rates, batch_size: int) -> int:
    """At most: the weights, and the largest batch that the plan allows."""
    if cost.backward or cost.gradient_decodes or cost.helper_passes:
        per_image = (rates.gradient or rates.forward).image_bytes + (prior.gradient.image_bytes if prior else 0)
        images = max(cost.backward, cost.gradient_decodes, cost.helper_passes)
    else:
        per_image = max(rates.forward.image_bytes, prior.decode.image_bytes if prior else 0)
        images = cost.forward
    return rates.weights_bytes + min(batch_size, images) * per_image


def _steps(
    plan: AuditPlan, rows: Sequence[AttackEstimate], rates: Rates, attacked: int, n_classes: int
) -> tuple[StepEstimate, ...]:
    """Everything beside the attacks, in the audit's order."""
    steps = [StepEstimate(name="process starts", seconds=3 * rates.unit_s)]
    for name, training in (("evaluator", rates.evaluator), ("judge", rates.judge)):
        if training is not None:
            steps.append(StepEstimate(name=name, seconds=training.seconds))
    private, public = rates.n_images.get("private", 0), rates.n_images.get("public", 0)
    heldout = rates.n_images.get("heldout", round(HELDOUT_FRAC * private))
    batch = plan.batch_size
    for name, prior in rates.priors.items():
        if prior.training is not None:
            quality = min(QUALITY_IMAGES, public // 20) if prior.training.extrapolated else 0
            seconds = prior.training.seconds + prior.gradient.seconds(quality * (prior.refine_steps + 1), batch)
            steps.append(StepEstimate(name=f"prior {name}", seconds=seconds, prior=name))
        measure = prior.gradient.seconds(heldout * (prior.refine_steps + 1), batch)
        measure += prior.decode.seconds(plan.n_control_samples, batch)
        measure += 2 * rates.forward.seconds(plan.n_control_samples + 2 * heldout, batch)
        steps.append(StepEstimate(name=f"control and ceiling of {name}", seconds=measure, prior=name))
    inverted = [row for row in rows if row.runnable and row.access is Access.WHITE_BOX]
    n_followed = len(followed([(row.attack, row.prior or "") for row in inverted]))
    if plan.fisher.enabled and rates.gradient is not None and private and n_followed:
        passes = _LAYER_PASS * fisher_passes(plan, attacked, n_classes, n_followed=n_followed)
        steps.append(StepEstimate(name=FISHER, seconds=rates.unit_s + rates.gradient.seconds(round(passes), 32)))
    pictures = sum(row.runnable for row in rows) * attacked * plan.samples_per_class
    steps.append(StepEstimate(name="judging", seconds=2 * rates.forward.seconds(pictures, batch)))
    return tuple(steps)


def fisher_passes(plan: AuditPlan, attacked: int, n_classes: int, *, n_followed: int) -> int:
    """Backward passes per sample that the layer scores take, with `n_followed` attacks followed."""
    spec = plan.fisher
    labels = n_classes if n_classes <= spec.exact_up_to else spec.label_samples
    images = spec.n_classes * spec.images_per_class
    kept = min(spec.n_classes, attacked) * min(spec.images_per_class, plan.samples_per_class)
    points = n_followed * len(spec.trajectory) * kept
    return images * (labels + 2) + points * (1 + spec.label_samples)
