"""The order of a repair: public weights, then every boundary trained and audited quickly, then the best one in full.

The submission itself is audited with the quick plan too (`before/`), so that candidates (`k2/`, `k4/`, ...) are
compared with it on equal terms; the chosen one is audited with the full plan (`after/`). A candidate whose training or
audit fails is left out, and the comparison says so.
"""

from __future__ import annotations

from auditor.contracts.jobs import AuditJob, RepairJob, UnitResult, UnitSpec
from auditor.contracts.repair import RepairStart
from auditor.service.pipeline import FINISH, Done, Failures, Pipeline, audit_units, is_tolerated

PRETRAIN, CHOOSE, COMPARE = "pretrain", "choose", "compare"
BEFORE, AFTER = "before/", "after/"
_REPAIR_INPUTS = ("model", "target.json", "manifest.json", "plan.json", "public.npz")


def repair_units(job: RepairJob, done: Done, failed: Failures) -> tuple[UnitSpec, ...]:
    """Every unit of a repair that may run now; pure, as `auditor.service.pipeline.audit_units` is."""
    own = {name: job.inputs[name] for name in _REPAIR_INPUTS if name in job.inputs} | job.data
    units = [UnitSpec(kind="repair-pretrain", key=PRETRAIN, inputs=own)]
    if PRETRAIN not in done:
        return tuple(units)
    start = RepairStart.model_validate(done[PRETRAIN].value)
    quick = job.inputs | {"plan.json": job.quick_plan_digest}
    units += audit_units(AuditJob(name=job.name, plan=job.quick_plan, inputs=quick), done, failed, prefix=BEFORE)
    for k, proposer in start.boundaries.items():
        units += _candidate(job, k, proposer, own | done[PRETRAIN].outputs, quick, done, failed)
    if not all(unit.key in done or unit.key in failed for unit in units):
        return tuple(units)
    audited = _audited(start, done)
    inputs = own | done[PRETRAIN].outputs | _quick_results(audited, done)
    units.append(UnitSpec(kind="repair-choose", key=CHOOSE, params={"boundaries": list(audited)}, inputs=inputs))
    if CHOOSE not in done:
        return tuple(units)
    chosen = done[CHOOSE].value.get("chosen")
    if isinstance(chosen, int):
        model = _model(done[f"k{chosen}/train"])
        full = audit_units(
            AuditJob(name=job.name, plan=job.plan, inputs=job.inputs | model), done, failed, prefix=AFTER
        )
        units += full
        if not all(unit.key in done or unit.key in failed for unit in full):
            return tuple(units)
    units.append(_compare_unit(list(audited), inputs, done))
    return tuple(units)


def _candidate(
    job: RepairJob, k: int, proposer: str, inputs: dict[str, str], quick: dict[str, str], done: Done, failed: Failures
) -> list[UnitSpec]:
    """Train boundary k, then audit what came out with the quick plan."""
    key = f"k{k}/train"
    units = [UnitSpec(kind="repair-train", key=key, params={"boundary": k, "proposed_by": proposer}, inputs=inputs)]
    if key in done:
        audit = AuditJob(name=job.name, plan=job.quick_plan, inputs=quick | _model(done[key]))
        units += audit_units(audit, done, failed, prefix=f"k{k}/")
    return units


def _model(trained: UnitResult) -> dict[str, str]:
    return {name: trained.outputs[name] for name in ("model", "target.json")}


def _audited(start: RepairStart, done: Done) -> tuple[int, ...]:
    """Boundaries that were trained; those whose audit failed have no report among the results."""
    return tuple(k for k in start.boundaries if f"k{k}/train" in done)


def _quick_results(boundaries: tuple[int, ...], done: Done) -> dict[str, str]:
    files = {}
    for k in boundaries:
        files[f"k{k}.candidate.json"] = done[f"k{k}/train"].outputs["candidate.json"]
        finished = done.get(f"k{k}/{FINISH}")
        if finished is not None:
            files[f"k{k}.report.json"] = finished.outputs["report.json"]
    return files


def _compare_unit(boundaries: list[int], inputs: dict[str, str], done: Done) -> UnitSpec:
    files = inputs | {"quick.json": done[BEFORE + FINISH].outputs["report.json"]}
    after = done.get(AFTER + FINISH)
    if after is not None:
        files["after.json"] = after.outputs["report.json"]
    return UnitSpec(kind="repair-compare", key=COMPARE, params={"boundaries": boundaries}, inputs=files)


def tolerates(key: str) -> bool:
    """A candidate may fail, and the full audit after it; the comparison then says so. The rest fails the repair."""
    return key.startswith(("k", AFTER)) or is_tolerated(key, prefix=BEFORE)


REPAIR = Pipeline(
    next_units=lambda payload, done, failed: repair_units(RepairJob.model_validate(payload), done, failed),
    final=COMPARE,
    tolerates=tolerates,
)
