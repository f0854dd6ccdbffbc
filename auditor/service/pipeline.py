"""The stage order: the only file that knows which unit follows which.

An audit job is `prepare`, then every attack on every chunk of classes, then `fisher`, then `finish`. (`check` ran when
the job was submitted.) A pipeline is a pure function from what is settled to what may run now; it never waits and
never touches a store, so calling it again with the same facts gives the same units.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue, TypeAdapter, ValidationError

from auditor.contracts.access import Access
from auditor.contracts.jobs import AttackReadiness, AuditJob, Failed, UnitResult, UnitSpec
from auditor.contracts.plan import AttackSpec
from auditor.errors import RunnerFailure

Done = Mapping[str, UnitResult]
"""Results of the finished units, by key."""
Failures = Mapping[str, Failed]
"""Errors of the failed units, by key."""

CONTROL_ATTACK, CONTROL_KEY = "best-of-prior", "control/"
PREPARE, FISHER, FINISH = "prepare", "fisher", "finish"
AFTER = "after/"
"""Before the keys of the units that audit in full what a job made."""
FULL = frozenset({FINISH, AFTER + FINISH})
"""Units that leave the report of a full audit, not of a trial on the way."""
RECON, OUTCOME = "recon.npz", "outcome.json"
"""What an attack unit leaves: its images, and what it cost."""
ACTIVATIONS, NO_PRIOR = "activations.npz", "none"
"""What `prepare` leaves for attacks on a cut model, and the prior of those, which use none."""

PRIOR_FREE = frozenset({"pixel", "pixels", "dip"})
"""Priors that no image was learned from: an attack on one of them draws on no public knowledge."""

_PREPARE_INPUTS = (
    "model", "manifest.json", "plan.json", "policy.json", "target.json",
    "private.npz", "heldout.npz", "public.npz", "generator.onnx", "generator-mapping.onnx", "judge.onnx",
)  # fmt: skip
_GENERATOR = ("generator.onnx", "generator-mapping.onnx")
_ATTACK_INPUTS = ("model", "manifest.json", "plan.json", "target.json", *_GENERATOR)
_SPLIT_INPUTS = ("model", "plan.json", "target.json")
_FISHER_INPUTS = ("model", "manifest.json", "plan.json", "target.json")
_READINESS = TypeAdapter(tuple[AttackReadiness, ...])
_CLASSES = TypeAdapter(tuple[int, ...])


@dataclass(frozen=True)
class Pipeline:
    """How jobs of one kind run.

    Attributes:
        next_units: (payload, done, failed) to every unit whose needs are settled, including those made before.
        final: key of the unit that ends the job.
        tolerates: whether the job goes on when the unit of that key failed; its pipeline then reports the failure.
    """

    next_units: Callable[[Mapping[str, Any], Done, Failures], tuple[UnitSpec, ...]]
    final: str
    tolerates: Callable[[str], bool]


@dataclass(frozen=True)
class AttackPlan:
    """One attack of the plan, or one control, cut into units.

    Attributes:
        index: position, names the files of its units.
        spec: what runs; a control is an attack spec of its own.
        readiness: what `prepare` said.
        prior: the prior it uses.
        chunks: the classes of each unit.
    """

    index: int
    spec: AttackSpec
    readiness: AttackReadiness
    prior: str
    chunks: tuple[tuple[int, ...], ...]

    def key(self, chunk: int, prefix: str = "") -> str:
        """The key of the unit that attacks chunk number `chunk`."""
        return f"{prefix}attack/{self.spec.key}/{chunk}"

    def file(self, chunk: int, suffix: str) -> str:
        """Workspace name of one of the unit's outputs when a later unit reads it, e.g. `attack-0-1.recon.npz`."""
        return f"attack-{self.index}-{chunk}.{suffix}"


def audit_units(job: AuditJob, done: Done, failed: Failures, *, prefix: str = "") -> tuple[UnitSpec, ...]:
    """Every unit of an audit that may run now.

    Args:
        job: the plan and the files.
        done: results of the finished units of the whole job.
        failed: errors of the failed ones.
        prefix: put before every key, so that one job can hold several audits (`k2/` for a repair's candidate).

    Raises:
        RunnerFailure: what `prepare` returned cannot be read.
    """
    units = [UnitSpec(kind=PREPARE, key=prefix + PREPARE, inputs=_pick(job.inputs, _PREPARE_INPUTS))]
    prepared = done.get(prefix + PREPARE)
    if prepared is None:
        return tuple(units)
    attacks = attack_plans(job, prepared)
    units += [unit for attack in attacks for unit in _attack_units(job, attack, prepared, prefix)]
    if not all(unit.key in done or unit.key in failed for unit in units):
        return tuple(units)
    if job.plan.fisher.enabled:
        units.append(_fisher_unit(job, attacks, done, prefix))
        if units[-1].key not in done and units[-1].key not in failed:
            return tuple(units)
    units.append(_finish_unit(job, attacks, done, failed, prefix))
    return tuple(units)


def attack_plans(job: AuditJob, prepared: UnitResult) -> tuple[AttackPlan, ...]:
    """The plan's attacks in order, then one best-of-prior control for every prior that a runnable attack uses."""
    try:
        readiness = {row.key: row for row in _READINESS.validate_python(prepared.value["attacks"])}
        classes = _CLASSES.validate_python(prepared.value["classes"])
    except (KeyError, ValidationError) as error:
        raise RunnerFailure(f"the result of '{PREPARE}' does not say what to attack: {error}") from None
    size = job.plan.classes_per_unit
    chunks = tuple(classes[start : start + size] for start in range(0, len(classes), size))
    attacks: list[AttackPlan] = []
    for spec in job.plan.attacks:
        ready = readiness.get(spec.key)
        if ready is None:
            raise RunnerFailure(f"the result of '{PREPARE}' does not mention attack '{spec.key}'")
        prior = ready.prior or spec.prior or job.plan.priors[0].name
        attacks.append(AttackPlan(len(attacks), spec, ready, prior, chunks if ready.runnable else ()))
    for prior in dict.fromkeys(attack.prior for attack in attacks if attack.chunks and attack.prior != NO_PRIOR):
        control = AttackSpec(name=CONTROL_ATTACK, prior=prior, label=f"{CONTROL_KEY}{prior}")
        ready = AttackReadiness(key=control.key, runnable=True, prior=prior)
        attacks.append(AttackPlan(len(attacks), control, ready, prior, chunks))
    return tuple(attacks)


def _attack_units(job: AuditJob, attack: AttackPlan, prepared: UnitResult, prefix: str) -> list[UnitSpec]:
    """One unit per chunk. It gets the model and the priors, and nothing that was made from private data.

    On a cut model it gets, in place of priors, the activations that were seen passing.
    """
    is_split = attack.readiness.access is Access.SPLIT
    priors = {
        name: digest
        for name, digest in prepared.outputs.items()
        if name.startswith("prior-") and name.endswith(".safetensors")
    }
    return [
        UnitSpec(
            kind="split-attack" if is_split else "attack",
            key=attack.key(number, prefix),
            params={
                "attack": attack.spec.model_dump(mode="json"),
                "prior": attack.prior,
                "classes": list(classes),
                "chunk": number,
                "aids": attack.readiness.aids,
            },
            inputs=_pick(job.inputs, _SPLIT_INPUTS if is_split else _ATTACK_INPUTS)
            | _pick(prepared.outputs, (attack.readiness.aids, *((ACTIVATIONS,) if is_split else ())))
            | ({} if is_split else priors),
            starts_processes=job.plan.compile and not is_split,
        )
        for number, classes in enumerate(attack.chunks)
    ]


def _fisher_unit(job: AuditJob, attacks: tuple[AttackPlan, ...], done: Done, prefix: str) -> UnitSpec:
    """Fisher scores read the fitted private images and the trajectories of the white-box attacks that are followed.

    `trajectories` lists, per attack, its `attack` (key), `prior`, `prior_free` and `files` (names of input files).
    """
    inputs = _pick(job.inputs, _FISHER_INPUTS)
    inputs |= _pick(done[prefix + PREPARE].outputs, ("prepared.json", "fit.npz", "placebo.npz"))
    made: list[tuple[AttackPlan, dict[str, str]]] = []
    for attack in attacks:
        results = {number: done.get(attack.key(number, prefix)) for number in range(len(attack.chunks))}
        files = {
            attack.file(number, RECON): result.outputs[RECON]
            for number, result in results.items()
            if result is not None and RECON in result.outputs
        }
        if files and attack.readiness.access is Access.WHITE_BOX:
            made.append((attack, files))
    trajectories: list[JsonValue] = []
    for index in followed([(attack.spec.name, attack.prior) for attack, _ in made]):
        attack, files = made[index]
        inputs |= files
        row: dict[str, JsonValue] = {"attack": attack.spec.key, "prior": attack.prior}
        trajectories.append(row | {"prior_free": attack.prior in PRIOR_FREE, "files": list(files)})
    return UnitSpec(kind=FISHER, key=prefix + FISHER, params={"trajectories": trajectories}, inputs=inputs)


def followed(methods: Sequence[tuple[str, str]]) -> tuple[int, ...]:
    """Which white-box attacks the layer scores follow: two, so that a profile is not one attack's own (card B.3).

    The first, and beside it the first whose prior is of the other kind (one knows public images, one does not), or
    else the first of another method.

    Args:
        methods: name and prior of each attack, in the plan's order.
    """
    if not methods:
        return ()
    name, prior = methods[0]
    others = range(1, len(methods))
    other_kind = [index for index in others if (methods[index][1] in PRIOR_FREE) != (prior in PRIOR_FREE)]
    other_method = [index for index in others if methods[index][0] != name]
    return (0, *(other_kind or other_method)[:1])


def _finish_unit(job: AuditJob, attacks: tuple[AttackPlan, ...], done: Done, failed: Failures, prefix: str) -> UnitSpec:
    """Everything, for the judging.

    The parameters say what became of each attack: `attacks` lists, per attack and control, `key`, `attack`
    (AttackSpec), `prior`, `is_control`, `runnable`, `reason` and `chunks`; a chunk has `classes`, `error` (empty: it
    ran), and when it ran `recon` and `outcome` (names of the input files), `seconds` and `peak_memory_bytes`.
    `fisher_error` is empty when `fisher.json` is there; `stages` gives seconds and peak memory of the other units.
    """
    inputs = dict(job.inputs) | done[prefix + PREPARE].outputs
    rows: list[JsonValue] = []
    for attack in attacks:
        chunks: list[JsonValue] = []
        for number, classes in enumerate(attack.chunks):
            key = attack.key(number, prefix)
            chunk: dict[str, JsonValue] = {"classes": list(classes), "error": _reason(failed.get(key))}
            missing = [name for name in (RECON, OUTCOME) if key in done and name not in done[key].outputs]
            if missing:
                chunk["error"] = f"the unit left no {' and no '.join(missing)}"
            elif key in done:
                for name, digest in done[key].outputs.items():
                    inputs[attack.file(number, name)] = digest
                chunk |= {"recon": attack.file(number, RECON), "outcome": attack.file(number, OUTCOME)}
                chunk |= _cost(done[key])
            chunks.append(chunk)
        rows.append(
            {
                "key": attack.spec.key,
                "attack": attack.spec.model_dump(mode="json"),
                "prior": attack.prior,
                "is_control": attack.spec.key.startswith(CONTROL_KEY),
                "runnable": attack.readiness.runnable,
                "reason": attack.readiness.reason,
                "inapplicable": attack.readiness.inapplicable,
                "aid_queries": attack.readiness.aid_queries,
                "chunks": chunks,
            }
        )
    fisher = done.get(prefix + FISHER)
    if fisher is not None:
        inputs |= fisher.outputs
    fisher_error = _reason(failed.get(prefix + FISHER)) if job.plan.fisher.enabled else "switched off in the plan"
    stages: dict[str, JsonValue] = {
        key: _cost(result)
        for key, result in ((PREPARE, done[prefix + PREPARE]), (FISHER, fisher))
        if result is not None
    }
    params: dict[str, JsonValue] = {"attacks": rows, "fisher_error": fisher_error, "stages": stages}
    return UnitSpec(kind=FINISH, key=prefix + FINISH, params=params, inputs=inputs)


def _pick(files: Mapping[str, str], names: tuple[str, ...]) -> dict[str, str]:
    return {name: files[name] for name in names if name in files}


def _cost(result: UnitResult) -> dict[str, JsonValue]:
    return {"seconds": result.seconds, "peak_memory_bytes": result.peak_memory_bytes}


def _reason(failure: Failed | None) -> str:
    return "" if failure is None else f"{failure.code}: {'; '.join(failure.problems)}"


def is_tolerated(key: str, *, prefix: str = "") -> bool:
    """Attacks and Fisher may fail, and the report says so. Only a failed attack withholds a pass."""
    return key.startswith(f"{prefix}attack/") or key == prefix + FISHER


AUDIT = Pipeline(
    next_units=lambda payload, done, failed: audit_units(AuditJob.model_validate(payload), done, failed),
    final=FINISH,
    tolerates=is_tolerated,
)
