"""The units of a repair that weigh what was measured: match with the audit before, halve, choose, compare.

Each takes (UnitSpec, Workspace, RunContext) and returns a small JSON value.
"""

from __future__ import annotations

from pydantic import JsonValue, TypeAdapter

from auditor.contracts.jobs import UnitSpec
from auditor.contracts.manifest import Manifest, RepairBudget
from auditor.contracts.prepared import PreparedAudit
from auditor.contracts.repair import RepairCandidate, RepairStart, TrainedCandidate
from auditor.contracts.report import AuditReport
from auditor.service.workspace import UnitValue, Workspace
from auditor.tensors import RunContext
from remediation.choice import better_third, choose
from remediation.comparable import require_same_measures
from remediation.compare import audited_candidate, repair_report
from remediation.pipeline import TRIAL

START, CANDIDATE = "start.json", "candidate.json"
"""What `remediation.stages` leaves of the start and of each boundary."""
_FAILED = TypeAdapter(dict[str, str])


def repair_match(unit: UnitSpec, workspace: Workspace, ctx: RunContext) -> UnitValue:
    """Reads `report.json` and `prepared.json`, of the submission as it is prepared in this repair; returns nothing.

    Raises:
        InvalidInput: the two could not be compared, so no repair could be proved.
    """
    prepared = PreparedAudit.model_validate_json(workspace.input("prepared.json").read_text())
    require_same_measures(report_in(workspace, "report.json"), prepared)
    return {}


def repair_halve(unit: UnitSpec, workspace: Workspace, ctx: RunContext) -> UnitValue:
    """Which boundaries of a sweep get the whole training: reads `start.json` and the results of the trials.

    `unit.params["boundaries"]` lists the K that were tried (`trial{K}.candidate.json`, `trial{K}.report.json`). Returns
    `kept`.
    """
    start = RepairStart.model_validate_json(workspace.input(START).read_text())
    trials = _audited(TRIAL, unit.params["boundaries"], workspace, start)
    proposed = [k for k, who in start.boundaries.items() if who == "fisher"]
    return {"kept": list(better_third(trials, read_budget(workspace).max_accuracy_loss, always=proposed))}


def repair_choose(unit: UnitSpec, workspace: Workspace, ctx: RunContext) -> UnitValue:
    """Pick the boundary for the full audit: reads `start.json`, and `k{K}.candidate.json` and `k{K}.report.json`.

    `unit.params["boundaries"]` lists the K whose quick audit succeeded. Returns `chosen` (or None) and `notes`.
    """
    start = RepairStart.model_validate_json(workspace.input(START).read_text())
    chosen, notes = choose(_audited("k", unit.params["boundaries"], workspace, start))
    return {"chosen": chosen, "notes": list(notes)}


def repair_compare(unit: UnitSpec, workspace: Workspace, ctx: RunContext) -> UnitValue:
    """Write `repair.json`; reads what `repair_choose` does, `report.json`, `quick.json` and, if any, `after.json`."""
    start = RepairStart.model_validate_json(workspace.input(START).read_text())
    trained, reports = _tried("k", unit.params["boundaries"], workspace)
    report = repair_report(
        start,
        trained,
        reports,
        before=report_in(workspace, "report.json"),
        before_quick=report_in(workspace, "quick.json"),
        after=report_in(workspace, "after.json") if workspace.has("after.json") else None,
        budget=read_budget(workspace),
        trials=_audited(TRIAL, unit.params.get("trials"), workspace, start),
        failed=_FAILED.validate_python(unit.params.get("failed") or {}),
    )
    workspace.output("repair.json").write_text(report.model_dump_json())
    return {
        "id": report.id,
        "chosen": report.chosen,
        "verdict_before": report.verdict_before,
        "verdict_after": report.verdict_after,
    }


def read_budget(workspace: Workspace) -> RepairBudget:
    """What the manifest allows the repair to cost."""
    return Manifest.model_validate_json(workspace.input("manifest.json").read_text()).repair


def report_in(workspace: Workspace, name: str) -> AuditReport:
    """The audit report in the input file called `name`."""
    return AuditReport.model_validate_json(workspace.input(name).read_text())


def _tried(
    prefix: str, boundaries: JsonValue, workspace: Workspace
) -> tuple[dict[int, TrainedCandidate], dict[int, AuditReport]]:
    """Candidates that were trained, and the quick reports of those that could be audited."""
    given = [int(str(k)) for k in boundaries or []]  # type: ignore[union-attr]
    trained = {
        k: TrainedCandidate.model_validate_json(workspace.input(f"{prefix}{k}.{CANDIDATE}").read_text()) for k in given
    }
    reports = {k: report_in(workspace, name) for k in given if workspace.has(name := f"{prefix}{k}.report.json")}
    return trained, reports


def _audited(
    prefix: str, boundaries: JsonValue, workspace: Workspace, start: RepairStart
) -> tuple[RepairCandidate, ...]:
    """Candidates with their quick audits."""
    trained, reports = _tried(prefix, boundaries, workspace)
    budget = read_budget(workspace)
    return tuple(audited_candidate(trained[k], reports[k], start.accuracy_before, budget) for k in sorted(reports))
