"""Stored reports in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete, or_, select
from sqlalchemy.orm import Session

from auditor.db.models import ReportRow
from auditor.db.repositories import REFERENCE, jobs_of
from auditor.db.rows import report_of
from auditor.db.tables import after_place
from auditor.errors import NotFound
from auditor.service.records import StoredReport
from auditor.service.repositories import Place


class SqlReports:
    """Reports in SQL."""

    def __init__(self, session: Session, team_id: str | None = None) -> None:
        self._session = session
        self._own: tuple[Any, ...] = () if team_id is None else (ReportRow.job_id.in_(jobs_of(team_id)),)

    def add(self, report: StoredReport) -> None:
        """Insert; the same unit's earlier report is replaced."""
        same = (ReportRow.job_id == report.job_id, ReportRow.unit_key == report.unit_key)
        self._session.execute(delete(ReportRow).where(*same))
        row = ReportRow(
            report_id=report.report_id,
            job_id=report.job_id,
            unit_key=report.unit_key,
            kind=report.kind.value,
            name=report.name,
            digest=report.digest,
            gallery_digest=report.gallery_digest,
            verdict=report.verdict,
            level=report.level,
            created_at=report.created_at,
        )
        self._session.add(row)
        self._session.flush()

    def find(self, reference: str) -> StoredReport:
        """By digest, report id or job id, or unique first characters of the ids; of equal reports the newest."""
        if REFERENCE.fullmatch(reference):
            matches = or_(
                ReportRow.report_id.startswith(reference, autoescape=True),
                ReportRow.job_id.startswith(reference, autoescape=True),
                ReportRow.digest == reference,
            )
            query = select(ReportRow).where(matches, *self._own).order_by(ReportRow.id.desc())
            rows = self._session.scalars(query).all()
            if len({row.report_id for row in rows}) > 1 and len({row.job_id for row in rows}) > 1:
                raise NotFound(f"more than one report starts with '{reference}'", remedy="Give more of the id.")
            if rows:
                return report_of(rows[0])
        raise NotFound(f"there is no report '{reference}'")

    def of_job(self, job_id: str) -> Sequence[StoredReport]:
        """Reports of one job, oldest first."""
        query = select(ReportRow).where(ReportRow.job_id == job_id, *self._own).order_by(ReportRow.id)
        return [report_of(row) for row in self._session.scalars(query)]

    def latest(self, limit: int) -> Sequence[StoredReport]:
        """Newest first."""
        query = select(ReportRow).where(*self._own).order_by(ReportRow.id.desc()).limit(limit)
        return [report_of(row) for row in self._session.scalars(query)]

    def page(self, limit: int, after: Place | None = None) -> Sequence[StoredReport]:
        """Newest first; the id of a place is the job's."""
        query = select(ReportRow).where(*self._own)
        if after is not None:
            query = query.where(after_place(ReportRow.created_at, ReportRow.job_id, after))
        query = query.order_by(ReportRow.created_at.desc(), ReportRow.job_id.desc()).limit(limit)
        return [report_of(row) for row in self._session.scalars(query)]

    def without_pictures(self, job_id: str) -> Sequence[str]:
        """Take the pictures from a job's reports."""
        query = select(ReportRow).where(ReportRow.job_id == job_id, ReportRow.gallery_digest.is_not(None), *self._own)
        rows = self._session.scalars(query).all()
        digests = [str(row.gallery_digest) for row in rows]
        for row in rows:
            row.gallery_digest = None
        self._session.flush()
        return digests
