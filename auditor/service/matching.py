"""Which prior an attack uses, and what in a plan cannot fit together: catalogs and plan side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from auditor.attacks.base import Attack
from auditor.attacks.catalog import ATTACKS
from auditor.attacks.split.catalog import catalog_of
from auditor.contracts.access import Access
from auditor.contracts.plan import AttackSpec, AuditPlan
from auditor.errors import InvalidInput
from auditor.priors.base import Trait
from auditor.priors.catalog import PRIORS
from auditor.targets.architectures import architecture_names

PIXEL, SUPPLIED = "pixel", "onnx"
Traits = Mapping[str, frozenset[Trait]]
"""Priors by name, with what they offer."""


def serves(name: str, traits: frozenset[Trait], attack: type[Attack[Any]]) -> bool:
    """Whether the attack can work on this prior: it has what the attack needs, and samples worth searching among.

    Samples of a prior that is the picture itself are noise, so it serves only who asks for one. `pixel`, whose samples
    are smooth at least, stands in for every prior where there are no public images.
    """
    return attack.needs <= traits and (name == PIXEL or Trait.PIXELS not in traits or Trait.PIXELS in attack.needs)


def choose_prior(spec: AttackSpec, attack: type[Attack[Any]], priors: Traits) -> str | None:
    """The prior the entry names, else the one the method comes with, else the first that serves it.

    Without public data that is the pixel prior, also for an entry that names another. None: nothing serves.
    """
    fitting = [name for name, traits in priors.items() if serves(name, traits, attack)]
    if spec.prior is not None:
        found = spec.prior if spec.prior in fitting else None
    elif attack.default_prior in fitting:
        found = attack.default_prior
    else:
        found = next(iter(fitting), None)
    return found or next((name for name in fitting if name == PIXEL), None)


def can_be_made(name: str, access: tuple[Access, ...] | None, *, has_public: bool) -> bool:
    """Whether the prior `name` can be trained here: it has its public images, and the access to the target it asks for.

    `access` is what the target offers; None: not known, taken as enough.
    """
    builder = PRIORS.get(name)
    if not has_public and Trait.PIXELS not in builder.traits:
        return False
    return builder.access is None or access is None or builder.access in access


def planned_traits(plan: AuditPlan, access: tuple[Access, ...] | None = None, *, has_public: bool = True) -> Traits:
    """The plan's own priors that can be made, and what they offer; of a supplied generator nothing is known."""
    traits = {
        prior.name: frozenset[Trait]() if prior.name == SUPPLIED else PRIORS.get(prior.name).traits
        for prior in plan.priors
        if prior.name == SUPPLIED or can_be_made(prior.name, access, has_public=has_public)
    }
    return {PIXEL: PRIORS.get(PIXEL).traits, **traits} if needs_pixel(plan, traits) else traits


def needs_pixel(plan: AuditPlan, made: Traits) -> bool:
    """Whether the pixel prior stands in: some of the plan's could not be made, and those left know nothing."""
    return len(made) < len(plan.priors) and all(Trait.PIXELS in traits for traits in made.values())


def parameter_problems(plan: AuditPlan) -> list[str]:
    """Attacks, priors and evaluators that do not exist, and parameters that they do not take, in the plan's order."""
    problems: list[str] = []
    for attack in plan.attacks:
        catalog = catalog_of(attack.name)
        problems += _found(lambda attack=attack, catalog=catalog: catalog.configure(attack.name, attack.params))  # type: ignore[misc]
    for prior in plan.priors:
        if prior.name == SUPPLIED:
            problems += (
                [f"prior '{SUPPLIED}' takes no parameters, and got {_list(prior.params)}"] if prior.params else []
            )
        else:
            problems += _found(lambda prior=prior: PRIORS.configure(prior.name, prior.params))  # type: ignore[misc]
    known = ("auto", *architecture_names())
    if plan.evaluator.architecture not in known:
        problems.append(f"plan: unknown evaluator architecture '{plan.evaluator.architecture}'; known: {_list(known)}")
    if not all(0 <= frac <= 1 for frac in plan.fisher.trajectory):
        problems.append("plan: `fisher.trajectory` must lie in 0..1")
    return problems


def component_problems(
    plan: AuditPlan, *, has_generator: bool, has_public: bool, access: tuple[Access, ...] | None
) -> list[str]:
    """What is wrong with the attacks, priors and evaluator that a plan names, and with how they go together: all of it.

    Args:
        plan: any plan.
        has_generator: whether the manifest supplies a generator (the prior `onnx`).
        has_public: whether there are public images.
        access: levels that the target offers; None: not known.
    """
    problems = parameter_problems(plan)
    if not has_generator and any(prior.name == SUPPLIED for prior in plan.priors):
        problems.append("plan: prior 'onnx' needs `data.generator` in the manifest")
    if all(prior.name == SUPPLIED or prior.name in PRIORS.names for prior in plan.priors):
        problems += _misfits(plan, has_public, access)
    return problems


def _found(step: Callable[[], object]) -> tuple[str, ...]:
    """The problems that `step` raises."""
    try:
        step()
    except InvalidInput as error:
        return error.problems
    return ()


def _misfits(plan: AuditPlan, has_public: bool, access: tuple[Access, ...] | None) -> list[str]:
    """Attacks that no listed prior serves, and priors that ask the target for more than it offers."""
    problems = []
    listed = {prior.name for prior in plan.priors}
    everything = dict(planned_traits(plan))
    if not has_public:
        everything.setdefault(PIXEL, PRIORS.get(PIXEL).traits)
    for spec in plan.attacks:
        if spec.name not in ATTACKS.names:
            continue
        attack = ATTACKS.get(spec.name)
        candidates = everything if spec.prior is None else {spec.prior: everything.get(spec.prior, frozenset())}
        unsure = SUPPLIED in candidates or (spec.prior is not None and spec.prior not in everything)
        if not candidates or unsure or any(serves(name, traits, attack) for name, traits in candidates.items()):
            continue
        serving = _list(p.name for p in PRIORS if serves(p.name, p.traits, attack) and p.name != PIXEL)
        if any(attack.needs <= traits for traits in candidates.values()):
            problems.append(
                f"plan: attack '{spec.key}' searches among the samples of its prior, and those of {_list(candidates)} "
                f"are noise (the latent is the picture itself); list and use one of: {serving}"
            )
        else:
            problems.append(
                f"plan: attack '{spec.key}' needs a prior that offers {_list(sorted(attack.needs))}, and "
                f"{_list(candidates)} does not; list one of: {serving}"
            )
    for name in sorted(listed - {SUPPLIED}):
        wanted = PRIORS.get(name).access
        if wanted is not None and access is not None and wanted not in access:
            problems.append(
                f"plan: prior '{name}' is made by asking the target at {wanted} access, and this target offers only "
                f"{_list(access)}"
            )
    return problems


def _list(names: Any) -> str:
    return ", ".join(map(str, names)) or "none"
