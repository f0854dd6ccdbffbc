"""The order of a repair: starting weights, then every boundary trained and audited quickly, then the best one in full.

The submission itself is audited with the quick plan too (`before/`), so that candidates (`k2/`, `k4/`, ...) are
compared with it on equal terms; the chosen one is audited with the full plan (`after/`). Nothing is trained on private
data before `match` found that those audits can be compared with the first one. A candidate whose training or audit
fails is left out, and the comparison says so.

A sweep tries every boundary with a part of the training and of the audit first (`trial0/`, `trial1/`, ...) and gives
the better third all of it: successive halving (Jamieson and Talwalkar, AISTATS 2016, arXiv 1502.07943) of two rounds,
with the factor 3 of Hyperband (Li et al., JMLR 2018, arXiv 1603.06560).
"""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import JsonValue, TypeAdapter

from auditor.contracts.jobs import WEIGHTS, AuditJob, RepairJob, UnitResult, UnitSpec
from auditor.contracts.repair import RepairStart
from auditor.service.pipeline import AFTER, FINISH, PREPARE, Done, Failures, Pipeline, audit_units, is_tolerated

FETCH, PRETRAIN, MATCH, HALVE, CHOOSE, COMPARE = "fetch", "pretrain", "match", "halve", "choose", "compare"
TRIAL = "trial"
BEFORE = "before/"
_BOUNDARIES = TypeAdapter(tuple[int, ...])
_REPAIR_INPUTS = ("model", "target.json", "manifest.json", "plan.json", "public.npz", WEIGHTS)


def repair_units(job: RepairJob, done: Done, failed: Failures) -> tuple[UnitSpec, ...]:
    """Every unit of a repair that may run now; pure, as `auditor.service.pipeline.audit_units` is."""
    own = {name: job.inputs[name] for name in _REPAIR_INPUTS if name in job.inputs} | job.data
    units = []
    if job.published is not None:
        units.append(UnitSpec(kind="repair-fetch", key=FETCH, params=job.published, needs_network=True))
        if FETCH not in done:
            return tuple(units)
        own |= done[FETCH].outputs
    units.append(UnitSpec(kind="repair-pretrain", key=PRETRAIN, inputs=own))
    if PRETRAIN not in done:
        return tuple(units)
    start = RepairStart.model_validate(done[PRETRAIN].value)
    inputs = own | done[PRETRAIN].outputs
    audited = job.inputs | {"before.json": job.data["report.json"]}
    quick = AuditJob(name=job.name, plan=job.quick_plan, inputs=audited | {"plan.json": job.quick_plan_digest})
    trial = AuditJob(name=job.name, plan=job.trial_plan, inputs=audited | {"plan.json": job.trial_plan_digest})
    submitted = audit_units(quick, done, failed, prefix=BEFORE)
    prepared = done.get(BEFORE + PREPARE)
    if prepared is None:
        return (*units, *submitted)
    match = {"report.json": job.data["report.json"], "prepared.json": prepared.outputs["prepared.json"]}
    units.append(UnitSpec(kind="repair-match", key=MATCH, inputs=match))
    units += submitted
    if MATCH not in done:
        return tuple(units)
    boundaries, trials = dict(start.boundaries), dict[str, str]()
    if start.trials:
        for k in boundaries:
            units += _candidate(trial, f"{TRIAL}{k}", {"boundary": k, "trial": True}, inputs, done, failed)
        if not _ended(units, done, failed):
            return tuple(units)
        trials = _quick_results(TRIAL, boundaries, done)
        params: dict[str, JsonValue] = {"boundaries": _trained(TRIAL, boundaries, done)}
        units.append(UnitSpec(kind="repair-halve", key=HALVE, params=params, inputs=inputs | trials))
        if HALVE not in done:
            return tuple(units)
        kept = _BOUNDARIES.validate_python(done[HALVE].value["kept"])
        boundaries = {k: proposer for k, proposer in boundaries.items() if k in kept}
    for k, proposer in boundaries.items():
        units += _candidate(quick, f"k{k}", {"boundary": k, "proposed_by": proposer}, inputs, done, failed)
    if not _ended(units, done, failed):
        return tuple(units)
    params = {"boundaries": _trained("k", boundaries, done), "trials": _trained(TRIAL, start.boundaries, done)}
    inputs = inputs | trials | _quick_results("k", boundaries, done)
    units.append(UnitSpec(kind="repair-choose", key=CHOOSE, params=params, inputs=inputs))
    if CHOOSE not in done:
        return tuple(units)
    chosen = done[CHOOSE].value.get("chosen")
    if isinstance(chosen, int):
        full = AuditJob(name=job.name, plan=job.plan, inputs=audited | _model(done[f"k{chosen}/train"]))
        units += audit_units(full, done, failed, prefix=AFTER)
    if _ended(units, done, failed):
        units.append(_compare_unit(params | {"failed": _broken(failed)}, inputs, done))
    return tuple(units)


def _ended(units: Iterable[UnitSpec], done: Done, failed: Failures) -> bool:
    return all(unit.key in done or unit.key in failed for unit in units)


def _candidate(
    plain: AuditJob,
    name: str,
    params: dict[str, JsonValue],
    inputs: dict[str, str],
    done: Done,
    failed: Failures,
) -> list[UnitSpec]:
    """Train one boundary, then audit what came out as `plain` says."""
    key = f"{name}/train"
    units = [UnitSpec(kind="repair-train", key=key, params=params, inputs=inputs)]
    if key in done:
        audit = plain.model_copy(update={"inputs": plain.inputs | _model(done[key])})
        units += audit_units(audit, done, failed, prefix=f"{name}/")
    return units


def _model(trained: UnitResult) -> dict[str, str]:
    return {name: trained.outputs[name] for name in ("model", "target.json")}


def _trained(prefix: str, boundaries: Iterable[int], done: Done) -> list[JsonValue]:
    """Boundaries that were trained; those whose audit failed have no report among the results."""
    return [k for k in boundaries if f"{prefix}{k}/train" in done]


def _broken(failed: Failures) -> JsonValue:
    """What failed as a whole, in words: trainings and audits. Of single attacks an audit's own report tells."""
    whole = ("train", "prepare", FINISH)
    told = {key: f"{'; '.join(f.problems)} {f.remedy}".strip() for key, f in sorted(failed.items())}
    return {key: words for key, words in told.items() if key.rpartition("/")[2] in whole}


def _quick_results(prefix: str, boundaries: Iterable[int], done: Done) -> dict[str, str]:
    files = {}
    for k in boundaries:
        trained, finished = done.get(f"{prefix}{k}/train"), done.get(f"{prefix}{k}/{FINISH}")
        if trained is not None:
            files[f"{prefix}{k}.candidate.json"] = trained.outputs["candidate.json"]
        if finished is not None:
            files[f"{prefix}{k}.report.json"] = finished.outputs["report.json"]
    return files


def _compare_unit(params: dict[str, JsonValue], inputs: dict[str, str], done: Done) -> UnitSpec:
    files = inputs | {"quick.json": done[BEFORE + FINISH].outputs["report.json"]}
    after = done.get(AFTER + FINISH)
    if after is not None:
        files["after.json"] = after.outputs["report.json"]
    return UnitSpec(kind="repair-compare", key=COMPARE, params=params, inputs=files)


def tolerates(key: str) -> bool:
    """A candidate may fail, and the full audit after it; the comparison then says so. The rest fails the repair."""
    return key.startswith(("k", TRIAL, AFTER)) or is_tolerated(key, prefix=BEFORE)


REPAIR = Pipeline(
    next_units=lambda payload, done, failed: repair_units(RepairJob.model_validate(payload), done, failed),
    final=COMPARE,
    tolerates=tolerates,
)
