"""The presets, in one readable table, and how a manifest's plan section becomes an AuditPlan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from auditor.contracts.manifest import PlanSection
from auditor.contracts.plan import AttackSpec, AuditPlan, EvaluatorSpec, FisherSpec, JudgeTraining, PriorSpec
from auditor.errors import InvalidInput

PPA = AttackSpec(name="ppa")
PPA_AVERAGED = AttackSpec(name="ppa", label="ppa-averaged", params={"averaged": 3})
MIRROR_B = AttackSpec(name="mirror-b")
GMI = AttackSpec(name="gmi", prior="dcgan")
VAE = PriorSpec(name="vae")
DCGAN = PriorSpec(name="dcgan")

PRESETS: Mapping[str, AuditPlan] = {
    "quick": AuditPlan(
        name="quick",
        attacks=(PPA, PPA_AVERAGED, MIRROR_B),
        priors=(VAE,),
        n_classes=60,
        samples_per_class=3,
    ),
    "standard": AuditPlan(
        name="standard",
        attacks=(PPA, PPA_AVERAGED, GMI, MIRROR_B),
        priors=(VAE, DCGAN),
        n_classes=60,
        samples_per_class=5,
    ),
    "deep": AuditPlan(
        name="deep",
        attacks=(
            PPA.model_copy(update={"params": {"steps": 300}}),
            PPA_AVERAGED.model_copy(update={"params": {"averaged": 6, "steps": 300}}),
            GMI.model_copy(update={"params": {"steps": 1500}}),
            MIRROR_B.model_copy(update={"params": {"generations": 100}}),
        ),
        priors=(VAE, DCGAN),
        n_classes=None,
        samples_per_class=8,
        evaluator=EvaluatorSpec(epochs=60),
        judge=JudgeTraining(epochs=60),
        fisher=FisherSpec(n_classes=60),
    ),
}


QUICK_SAMPLES = 3


def quick_version(plan: AuditPlan) -> AuditPlan:
    """The cheaper plan that a repair audits every candidate with: same classes, seed, evaluator, judge and prior.

    Only the plan's PPA attacks on its first prior are kept (plain and with averaged gradients: static attacks alone
    overstate what freezing does), with fewer samples per class and without layer scores. A plan without PPA keeps its
    first attack.
    """
    first = plan.priors[0]
    kept = tuple(a for a in plan.attacks if a.name == PPA.name and a.prior in (None, first.name)) or plan.attacks[:1]
    names = {attack.prior for attack in kept}
    priors = tuple(prior for prior in plan.priors if prior is first or prior.name in names)
    return plan.model_copy(
        update={
            "name": f"{plan.name}:candidates",
            "attacks": kept,
            "priors": priors,
            "samples_per_class": min(QUICK_SAMPLES, plan.samples_per_class),
            "fisher": plan.fisher.model_copy(update={"enabled": False}),
        }
    )


def resolve_plan(section: PlanSection) -> AuditPlan:
    """The preset with the manifest's changes applied; a plan that differs from its preset says so in its name.

    Raises:
        InvalidInput: an override names no field of the plan, or has a wrong value; all problems are listed.
    """
    preset = PRESETS[section.preset]
    changes: dict[str, Any] = dict(section.overrides)
    for name in ("seed", "n_classes", "samples_per_class", "attacks", "priors"):
        value = getattr(section, name)
        if value is not None:
            changes[name] = value
    if "name" in changes:
        raise InvalidInput("plan.overrides.name: the plan's name follows from its preset and cannot be set")
    if not changes:
        return preset
    try:
        plan = AuditPlan.model_validate(_merged(preset.model_dump(mode="json"), _plain(changes)))
    except ValidationError as error:
        raise InvalidInput([f"plan.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]) from None
    same = plan == preset
    return preset if same else plan.model_copy(update={"name": f"{preset.name}+custom"})


def _plain(changes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: [item.model_dump(mode="json") for item in value] if isinstance(value, tuple) else value
        for name, value in changes.items()
    }


def _merged(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in changes.items():
        old = merged.get(name)
        merged[name] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def plan_problems(plan: AuditPlan) -> list[str]:
    """What a plan's own fields cannot say about each other: keys and prior names must be unique."""
    keys = Counter(attack.key for attack in plan.attacks)
    priors = Counter(prior.name for prior in plan.priors)
    problems = [f"plan: two attacks have the key '{key}'; give one a `label`" for key, n in keys.items() if n > 1]
    problems += [f"plan: the key '{key}' is kept for controls" for key in keys if key.startswith("control/")]
    problems += [f"plan: the prior '{name}' is listed twice" for name, n in priors.items() if n > 1]
    problems += [
        f"plan: attack '{attack.key}' wants the prior '{attack.prior}', which the plan does not list"
        for attack in plan.attacks
        if attack.prior is not None and attack.prior not in priors
    ]
    return problems
