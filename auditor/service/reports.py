"""Reports that units leave: read, checked against their contract, and listed."""

from __future__ import annotations

from datetime import datetime

from pydantic import ValidationError

from auditor.contracts.jobs import JobKind, UnitResult
from auditor.contracts.repair import RepairReport
from auditor.contracts.report import AuditReport
from auditor.errors import RunnerFailure
from auditor.service.ports import ArtifactStore
from auditor.service.records import StoredReport, Unit

AUDIT_REPORT, REPAIR_REPORT, GALLERY = "report.json", "repair.json", "gallery.json"
"""Output names by which a unit leaves a report."""


def reports_left_by(unit: Unit, result: UnitResult, store: ArtifactStore, now: datetime) -> tuple[StoredReport, ...]:
    """The report among a unit's outputs, if there is one, as it will be listed.

    Raises:
        RunnerFailure: it does not keep to its contract; the unit then counts as failed.
    """
    found = [name for name in (AUDIT_REPORT, REPAIR_REPORT) if name in result.outputs]
    if len(found) > 1:
        raise RunnerFailure(f"unit '{unit.spec.key}' left two reports")
    return tuple(_read(unit, name, result, store, now) for name in found)


def _read(unit: Unit, name: str, result: UnitResult, store: ArtifactStore, now: datetime) -> StoredReport:
    data = store.get_bytes(result.outputs[name])
    verdict: str | None
    level: str | None
    try:
        if name == AUDIT_REPORT:
            report = AuditReport.model_validate_json(data)
            report_id, kind, verdict = report.id, JobKind.AUDIT, report.verdict.verdict.value
            level = None if report.verdict.level is None else report.verdict.level.value
            loosened = report.policy.loosened()
        else:
            repair = RepairReport.model_validate_json(data)
            report_id, kind, level = repair.id, JobKind.REPAIR, None
            verdict = None if repair.verdict_after is None else repair.verdict_after.value
            loosened = repair.policy_loosened
    except ValidationError as error:
        raise RunnerFailure(f"unit '{unit.spec.key}' left a report that breaks its contract: {error}") from None
    return StoredReport(
        report_id=report_id,
        job_id=unit.job_id,
        unit_key=unit.spec.key,
        kind=kind,
        name="",
        digest=result.outputs[name],
        gallery_digest=result.outputs.get(GALLERY),
        verdict=verdict,
        level=level,
        created_at=now,
        looser_policy=bool(loosened),
    )
