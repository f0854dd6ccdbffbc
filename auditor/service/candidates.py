"""The plans that a repair audits with; this knows no catalog, so a worker's own process can load it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pydantic import JsonValue

from auditor.contracts.plan import KNOWING, AttackSpec, AuditPlan, PriorSpec

PPA = "ppa"
COMPARED = frozenset({PPA, "mirror-w"})
"""Attacks by which candidates are compared: on one prior that all share they find the most, for few queries."""
QUICK_SAMPLES = 3
EFFORT = frozenset(
    {
        "averaged", "candidates", "copies", "directions", "epochs", "generations", "iterations", "parallel", "patience",
        "pool", "population", "public_images", "queries", "samples", "search", "shadow_steps", "stage_steps", "stages",
        "steps", "students", "transforms",
    }
)  # fmt: skip
"""Parameters, of whichever attack, of which more is never weaker."""
UNSET: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        PPA: {"pool": 2000, "candidates": 2, "steps": 60, "averaged": 1, "transforms": 16},
        "mirror-w": {"pool": 2000, "steps": 100, "averaged": 1},
        "plg-mi": {"steps": 200, "copies": 2},
        "brep-mi": {"search": 20_000, "directions": 32, "iterations": 300, "patience": 50},
        "mirror-b": {"pool": 2000, "population": 30, "generations": 20},
        "inverse-network": {},
    }
)
"""What attacks that may know a defense spend on what a plan leaves unset: the catalog's defaults, by attack."""


def with_adaptive(plan: AuditPlan, known: tuple[AttackSpec, ...]) -> AuditPlan:
    """The plan with the attacks that know a defense, where it does not have them.

    What one of them knows must show, and not how long it runs: of every parameter of effort it gets the most that it
    sets itself or an attack of its name in the plan runs with. Attacks draw from their own keys, so those of the plan
    end where they ended without the others. A plan that has such an attack already, with other knowledge, keeps it and
    gets the new one under a numbered key: a repaired model was repaired once more. One that names its prior is added
    where the plan has that prior.
    """
    attacks, priors = plan.attacks, {None, *(prior.name for prior in plan.priors)}
    for attack in (attack for attack in known if attack.prior in priors):
        new = _numbered(_with_effort(attack, plan), attacks)
        attacks = attacks if new is None else (*attacks, new)
    if attacks == plan.attacks:
        return plan
    return plan.model_copy(update={"name": f"{plan.name}+adaptive", "attacks": attacks})


def _numbered(attack: AttackSpec, attacks: tuple[AttackSpec, ...]) -> AttackSpec | None:
    """The attack under the first key that is free; None: it is there."""
    there = {other.key: other for other in attacks}
    key, number = attack.key, 1
    while key in there:
        if _covers(there[key], attack):
            return None
        number += 1
        key = f"{attack.key}-{number}"
    return attack.model_copy(update={"label": key})


def _covers(there: AttackSpec, attack: AttackSpec) -> bool:
    """Whether `there` is the same attack with no less effort."""
    unset = UNSET.get(attack.name, {})
    return (there.name, there.prior) == (attack.name, attack.prior) and all(
        _effort(there, name, unset) >= _effort(attack, name, unset)
        if name in EFFORT
        else there.params.get(name) == attack.params.get(name)
        for name in there.params.keys() | attack.params.keys()
    )


def _with_effort(attack: AttackSpec, plan: AuditPlan) -> AttackSpec:
    """With the most that it, or an attack of its name in the plan, spends on each parameter of effort that one sets."""
    unset = UNSET.get(attack.name, {})
    own = [other for other in plan.attacks if other.name == attack.name and not other.key.startswith(KNOWING)]
    named = {name for other in (attack, *own) for name in other.params if name in EFFORT}
    most: dict[str, JsonValue] = {
        name: max(_effort(other, name, unset) for other in ((attack, *own) if name in attack.params else own))
        for name in sorted(named)
    }
    return attack.model_copy(update={"params": attack.params | most})


def _effort(attack: AttackSpec, name: str, unset: Mapping[str, int]) -> int:
    """What an attack spends on a parameter; what is no number is for the catalog to refuse."""
    value = attack.params.get(name, unset.get(name, 0))
    return value if isinstance(value, int) else 0


def goals_around(resting: float) -> list[JsonValue]:
    """Probabilities for a search to aim for where a model was trained to rest at one: that, one below, and up to 1."""
    goals = (0.8 * resting, resting, 0.75 * resting + 0.25, 0.5 * resting + 0.5, 1.0)
    return [float(f"{goal:.3g}") for goal in goals]


def trial_version(quick: AuditPlan) -> AuditPlan:
    """The plan that ranks the boundaries of a sweep: the quick plan's first attack, one sample per class.

    It only decides which boundaries get all of the training; those are audited with the quick plan.
    """
    return quick.model_copy(
        update={"name": f"{quick.name}:trials", "attacks": quick.attacks[:1], "samples_per_class": 1}
    )


def quick_version(plan: AuditPlan) -> AuditPlan:
    """The cheaper plan that a repair audits every candidate with: same classes, seed, evaluator, judge and prior.

    Only the plan's PPA and MIRROR attacks on its first prior are kept (plain and with averaged gradients), with fewer
    samples per class and without layer scores. A plan without them keeps its first attack, and a cut model's plan all.
    """
    first = plan.priors[0] if plan.priors else PriorSpec(name="")
    kept = tuple(a for a in plan.attacks if a.name in COMPARED and a.prior in (None, first.name))
    kept = kept or (plan.attacks[:1] if plan.split is None else plan.attacks)
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
