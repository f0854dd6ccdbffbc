"""The plans that a repair audits with; this knows no catalog, so a worker's own process can load it."""

from __future__ import annotations

from pydantic import JsonValue

from auditor.contracts.plan import AttackSpec, AuditPlan, PriorSpec

PPA = "ppa"
QUICK_SAMPLES = 3
EFFORT = frozenset(
    {
        "averaged", "candidates", "copies", "directions", "epochs", "generations", "iterations", "parallel", "patience",
        "pool", "population", "public_images", "queries", "samples", "search", "shadow_steps", "stage_steps", "stages",
        "steps", "students", "transforms",
    }
)  # fmt: skip
"""Parameters, of whichever attack, of which more is never weaker."""


def with_adaptive(plan: AuditPlan, known: tuple[AttackSpec, ...]) -> AuditPlan:
    """The plan with the attacks that know a defense, where it does not have them.

    What one of them knows must show, and not how long it runs: it gets the effort that the plan spends on attacks of
    its name, where it does not set it itself. Attacks draw from their own keys, so those of the plan end where they
    ended without the others.
    """
    have = {attack.key for attack in plan.attacks}
    new = tuple(_with_effort(attack, plan) for attack in known if attack.key not in have)
    if not new:
        return plan
    return plan.model_copy(update={"name": f"{plan.name}+adaptive", "attacks": plan.attacks + new})


def _with_effort(attack: AttackSpec, plan: AuditPlan) -> AttackSpec:
    """With the most that an attack of this name in the plan sets for each parameter of effort."""
    spent: dict[str, JsonValue] = {}
    for other in plan.attacks:
        for name, value in other.params.items():
            if other.name == attack.name and name in EFFORT and isinstance(value, int):
                known = spent.get(name)
                spent[name] = value if not isinstance(known, int) else max(known, value)
    return attack.model_copy(update={"params": spent | attack.params})


def trial_version(quick: AuditPlan) -> AuditPlan:
    """The plan that ranks the boundaries of a sweep: the quick plan's first attack, one sample per class.

    It only decides which boundaries get all of the training; those are audited with the quick plan.
    """
    return quick.model_copy(
        update={"name": f"{quick.name}:trials", "attacks": quick.attacks[:1], "samples_per_class": 1}
    )


def quick_version(plan: AuditPlan) -> AuditPlan:
    """The cheaper plan that a repair audits every candidate with: same classes, seed, evaluator, judge and prior.

    Only the plan's PPA attacks on its first prior are kept (plain and with averaged gradients), with fewer samples per
    class and without layer scores. A plan without PPA keeps its first attack, and a cut model's plan all of them.
    """
    first = plan.priors[0] if plan.priors else PriorSpec(name="")
    kept = tuple(a for a in plan.attacks if a.name == PPA and a.prior in (None, first.name))
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
