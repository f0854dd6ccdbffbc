"""The presets, in one readable table, and how a manifest's plan section becomes an AuditPlan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue, ValidationError

from auditor.contracts.base import as_written
from auditor.contracts.manifest import PlanSection
from auditor.contracts.plan import KNOWING, AttackSpec, AuditPlan, EvaluatorSpec, FisherSpec, JudgeTraining, PriorSpec
from auditor.errors import InvalidInput
from auditor.service.candidates import PPA
from auditor.service.pipeline import CONTROL_ATTACK

Params = Mapping[str, JsonValue] | None
NOT_SET = {
    "name": "the plan's name follows from its preset",
    "left_out": "it says what a time budget took out",
    "withheld": "a repair sets it",
    "repairs": "it follows from the repairs that are stored",
}
"""Fields of a plan that are not the manifest's to change, and why."""
FISHER = "fisher"
"""The layer scores in `AuditPlan.left_out`."""


BREP: Mapping[str, JsonValue] = {"search": 5000, "patience": 20, "iterations": 100}
SCRUB: Mapping[str, JsonValue] = {"averaged": 4, "erase": 0.4, "scrub": 1.0}
"""PPA through blurred and half-hidden pictures: against planted triggers and training with random erasing."""
SWEEP: Mapping[str, JsonValue] = {"confidence": [0.5, 0.7, 0.88, 0.95, 1.0], "candidates": 5}
"""PPA towards several confidences: a defense may make the highest one a trap."""
FRONT: Mapping[str, JsonValue] = {"averaged": 3, "front_weight": 0.1}
"""PPA that knows the public layers of a fine-tuned model; without any it does not apply."""


@dataclass(frozen=True)
class Row:
    """One attack of the presets: None where a preset leaves it out, else the parameters it gives there.

    Attributes:
        name: catalog name.
        quick: parameters in `quick`.
        standard: parameters in `standard`.
        deep: parameters in `deep`.
        label: tells two rows of one attack apart.
        prior: the prior it uses; None: the one it comes with, else the plan's first that fits.
    """

    name: str
    quick: Params
    standard: Params
    deep: Params
    label: str | None = None
    prior: str | None = None

    def spec(self, preset: str) -> AttackSpec | None:
        """The attack as `preset` runs it; None: it does not."""
        params: Params = getattr(self, preset)
        if params is None:
            return None
        return AttackSpec(name=self.name, params=dict(params), label=self.label, prior=self.prior)


ROWS = (
    #   attack           quick            standard         deep
    Row(PPA,             {},              {},              {"steps": 300}),
    Row(PPA,             {"averaged": 3}, {"averaged": 3}, {"averaged": 6, "steps": 300}, label="ppa-averaged"),
    Row(PPA,             None,            None,            SCRUB,            label="ppa-scrub"),
    Row(PPA,             None,            None,            SWEEP, label="ppa-confidence"),
    Row(PPA,             None,            None,            FRONT, label="ppa-front"),
    Row("if-gmi",        None,            None,            {"steps": 100}, prior="vae-gan"),
    Row("mirror-w",      None,            {},              {"steps": 300}),
    Row("gmi",           None,            {},              {"steps": 1500}, prior="dcgan"),
    Row("kedmi",         None,            {},              {"steps": 1000}),
    Row("vmi",           None,            None,            {}),
    Row("lomma",         None,            {"base": "gmi"}, {"base": "gmi", "steps": 1500}, prior="kedmi-gan"),
    Row("lomma",         None,            None,            {"steps": 1000},  label="lomma-kedmi"),
    Row("plg-mi",        None,            {},              {"steps": 600}),
    Row("mirror-b",      {},              {},              {"generations": 100}),
    Row("smile",         None,            {"queries": 301}, {}),
    Row("c2fmi",         None,            None,            {}),
    Row("rlb-mi",        None,            None,            {}),
    Row("lokt",          None,            {},              {"steps": 600}),
    Row("brep-mi",       None,            BREP,            {}),
    Row("deep-inversion", None,           None,            {}),
    Row("dip",           None,            None,            {}),
    Row("pixel-tv",      None,            None,            {}),
    Row("mi-face",       None,            None,            {}),
)  # fmt: skip
"""Which preset runs which attack, in order, and with which parameters beside its defaults."""

PRIORS: tuple[tuple[str, Params, Params, Params], ...] = (
    #            quick  standard  deep
    ("vae",       {},    {},       {}),
    ("vae-gan",   None,  None,     {}),
    ("dcgan",     None,  {},       {}),
    ("kedmi-gan", None,  {},       {}),
    ("plg-gan",   None,  {},       {}),
    ("tac-gan",   None,  {},       {}),
    ("pixels",    None,  None,     {}),
    ("dip",       None,  None,     {}),
)  # fmt: skip
"""The same for priors; the first is the default of attacks that come with none."""

SPLIT = tuple(AttackSpec(name=name) for name in ("inverse-network", "rmle", "query-free"))
"""What a plan runs on a cut model unless it lists attacks itself."""
SPLIT_NAMES = frozenset(attack.name for attack in SPLIT)
"""Attacks that read what passes between the parts of a cut model."""

STRENGTH: Mapping[str, int] = {
    "ppa": 9,
    "plg-mi": 9,
    "if-gmi": 9,
    "c2fmi": 8,
    "mirror-w": 8,
    "lokt": 8,
    "vmi": 7,
    "brep-mi": 7,
    "lomma": 7,
    "smile": 6,
    "mirror-b": 6,
    "kedmi": 4,
    "gmi": 3,
    "rlb-mi": 2,
    "deep-inversion": 2,
    "dip": 2,
    "pixel-tv": 1,
    "mi-face": 1,
}
"""How much an attack found where every one was tried, 9 the most: by lift and by what both witnesses recognise on the
faces of docs/results.md. It only says which attack goes first when time is short; one that is not listed comes last."""


def _preset(name: str, **fields: Any) -> AuditPlan:
    """The column `name` of the tables, with the other fields of the plan."""
    column = ("quick", "standard", "deep").index(name)
    priors = [(prior, columns[column]) for prior, *columns in PRIORS]
    return AuditPlan(
        name=name,
        attacks=tuple(spec for row in ROWS if (spec := row.spec(name)) is not None),
        priors=tuple(PriorSpec(name=prior, params=params) for prior, params in priors if params is not None),
        **fields,
    )


PRESETS: Mapping[str, AuditPlan] = {
    "quick": _preset("quick", n_classes=60, samples_per_class=3),
    "standard": _preset("standard", n_classes=60, samples_per_class=5),
    "deep": _preset(
        "deep",
        n_classes=None,
        samples_per_class=8,
        evaluator=EvaluatorSpec(epochs=60),
        judge=JudgeTraining(epochs=60),
        fisher=FisherSpec(n_classes=60),
    ),
}


def resolve_plan(section: PlanSection) -> AuditPlan:
    """The preset with the manifest's changes applied; a plan that differs from its preset says so in its name.

    Raises:
        InvalidInput: an override names no field of the plan, or has a wrong value; all problems of the plan are listed
            with it, as far as the plan alone shows them.
    """
    preset, changes = PRESETS[section.preset], _changes(section)
    if not changes:
        return preset
    problems, wrong = list[str](), set[str]()
    for name, reason in NOT_SET.items():
        if name in changes:
            problems.append(f"plan.overrides.{name}: {reason} and cannot be set")
            wrong.add(name)
            del changes[name]
    try:
        plan = _changed(preset, changes)
    except ValidationError as error:
        problems += [f"plan.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        wrong |= {str(e["loc"][0]) if e["loc"] else "priors" for e in error.errors()}  # no place: that there are none
    if problems:
        raise InvalidInput(problems + _problems_beside(preset, changes, wrong))
    return preset if plan == preset else plan.model_copy(update={"name": f"{preset.name}+custom"})


def _changes(section: PlanSection) -> dict[str, Any]:
    """The fields of the plan that the manifest sets, by name."""
    changes: dict[str, Any] = dict(section.overrides)
    for name in ("seed", "n_classes", "samples_per_class", "attacks", "priors"):
        value = getattr(section, name)
        if value is not None:
            changes[name] = value
    if section.split is not None:
        changes["split"] = section.split
        if section.attacks is None:
            changes |= {"attacks": SPLIT, "priors": section.priors or ()}
            changes.setdefault(FISHER, {"enabled": False})  # layer scores need the course of a white-box attack
    return changes


def _changed(preset: AuditPlan, changes: Mapping[str, Any]) -> AuditPlan:
    return as_written(AuditPlan, _merged(preset.model_dump(mode="json"), _plain(changes)))


def _problems_beside(preset: AuditPlan, changes: Mapping[str, Any], wrong: set[str]) -> list[str]:
    """What is wrong with the plan beside the fields `wrong`, whatever the model and the data are."""
    # The catalogs load torch: only who has a problem waits for it.
    from auditor.service.matching import component_problems, parameter_problems

    try:
        plan = _changed(preset, {name: value for name, value in changes.items() if name not in wrong})
    except ValidationError:
        return []
    if wrong & {"attacks", "priors", "split"}:  # the preset's stand in their place, which nobody asked to go together
        return parameter_problems(plan)
    return plan_problems(plan) + component_problems(plan, has_generator=True, has_public=False, access=None)


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
    problems += [
        f"plan: the key '{key}' is kept for attacks that know the defense of a repair; the repair adds them"
        for key in keys
        if key.startswith(KNOWING)
    ]
    problems += [
        f"plan: '{attack.name}' is a control, which every audit runs by itself: take it out"
        for attack in plan.attacks
        if attack.name == CONTROL_ATTACK
    ]
    problems += [f"plan: the prior '{name}' is listed twice" for name, n in priors.items() if n > 1]
    problems += [
        f"plan: attack '{attack.key}' wants the prior '{attack.prior}', which the plan does not list"
        for attack in plan.attacks
        if attack.prior is not None and attack.prior not in priors and attack.name not in SPLIT_NAMES
    ]
    for attack in plan.attacks:
        if attack.name not in SPLIT_NAMES:
            problems += [] if plan.priors else [f"plan: attack '{attack.key}' needs a prior, and the plan lists none"]
        elif plan.split is None:
            problems.append(f"plan: attack '{attack.key}' works on a cut model: name the layer with --split or `split`")
        elif attack.prior is not None:
            problems.append(f"plan: attack '{attack.key}' reads activations and uses no prior")
    return problems


def omissions(plan: AuditPlan) -> tuple[str, ...]:
    """What a time budget took out of the plan, in words for the report; empty: nothing."""
    lines = []
    attacks = [key for key in plan.left_out if key != FISHER]
    if attacks:
        lines.append(
            f"To fit a time budget, these attacks of the plan were left out: {', '.join(attacks)}. What they would "
            "have found is not known."
        )
    if FISHER in plan.left_out:
        lines.append("To fit a time budget, the layer scores were left out.")
    return tuple(lines)
