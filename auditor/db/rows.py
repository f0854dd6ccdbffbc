"""Rows to records."""

from __future__ import annotations

from typing import Any

from auditor.contracts.jobs import Failed, JobKind, JobState, Progress, UnitResult, UnitSpec, UnitState
from auditor.db.models import JobRow, ReportRow, UnitRow
from auditor.service.records import Job, StoredReport, Unit


def job_of(row: JobRow) -> Job:
    """The record of a job's row."""
    return Job(
        id=row.id,
        kind=JobKind(row.kind),
        name=row.name,
        submission_id=row.submission_id,
        fingerprint=row.fingerprint,
        payload=row.payload,
        created_at=row.created_at,
        state=JobState(row.state),
        cancel_requested=row.cancel_requested,
        error=None if row.error is None else Failed.model_validate(row.error),
        finished_at=row.finished_at,
        team_id=row.team_id,
        priority=row.priority,
        submitter=row.submitter,
    )


def unit_of(row: UnitRow) -> Unit:
    """The record of a unit's row."""
    return Unit(
        id=row.id,
        job_id=row.job_id,
        position=row.position,
        spec=UnitSpec.model_validate(row.spec),
        state=UnitState(row.state),
        attempt=row.attempt,
        worker=row.worker,
        lease_until=row.lease_until,
        heartbeat_at=row.heartbeat_at,
        progress=None if row.progress is None else Progress.model_validate(row.progress),
        result=None if row.result is None else UnitResult.model_validate(row.result),
        error=None if row.error is None else Failed.model_validate(row.error),
    )


def report_of(row: ReportRow) -> StoredReport:
    """The record of a report's row, as lists tell it."""
    stored = StoredReport(
        report_id=row.report_id,
        job_id=row.job_id,
        unit_key=row.unit_key,
        kind=JobKind(row.kind),
        name=row.name,
        digest=row.digest,
        gallery_digest=row.gallery_digest,
        verdict=row.verdict,
        level=row.level,
        created_at=row.created_at,
        looser_policy=row.looser_policy,
        rules=row.rules or 0,
    )
    return stored.as_told


def json_of(value: Failed | Progress | UnitResult | None) -> dict[str, Any] | None:
    """A contract as a JSON column holds it."""
    return None if value is None else value.model_dump(mode="json")
