"""Stored reports in SQL."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import and_, delete, func, or_, select, update
from sqlalchemy.orm import Session

from auditor.contracts.jobs import JobKind, JobState
from auditor.db.models import OF_THE_JOB, JobRow, ReportRow
from auditor.db.repositories import REFERENCE, jobs_of
from auditor.db.rows import report_of
from auditor.db.tables import after_place
from auditor.errors import NotFound
from auditor.service.records import Place, Series, StoredReport

_AT_ONCE = 500
"""Ids in one statement, which databases limit."""
_ENDED_WELL = select(JobRow.id).where(JobRow.id == ReportRow.job_id, JobRow.state == JobState.DONE.value).exists()
_NEWEST_FIRST = (ReportRow.created_at.desc(), ReportRow.job_id.desc())


class SqlReports:
    """Reports in SQL."""

    def __init__(self, session: Session, team_id: str | None = None) -> None:
        self._session = session
        self._own: tuple[Any, ...] = (
            () if team_id is None else (jobs_of(team_id).where(JobRow.id == ReportRow.job_id).exists(),)
        )

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
            looser_policy=report.looser_policy,
            rules=report.rules,
            created_at=report.created_at,
        )
        self._session.add(row)
        self._session.flush()

    def find(self, reference: str) -> StoredReport:
        """By digest, report id or job id, or unique first characters of the ids; of equal reports the newest.

        A job's id names the report that it was for: until a repair is done, what its trials left is not found by it.
        """
        if REFERENCE.fullmatch(reference):
            matches = or_(
                ReportRow.report_id.startswith(reference, autoescape=True),
                and_(ReportRow.job_id.startswith(reference, autoescape=True), OF_THE_JOB),
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

    def of_jobs(self, job_ids: Sequence[str]) -> Mapping[str, Sequence[StoredReport]]:
        """Reports of each of these jobs, oldest first."""
        found: dict[str, list[StoredReport]] = {job_id: [] for job_id in job_ids}
        for start in range(0, len(job_ids), _AT_ONCE):
            among = ReportRow.job_id.in_(job_ids[start : start + _AT_ONCE])
            for row in self._session.scalars(select(ReportRow).where(among, *self._own).order_by(ReportRow.id)):
                found[row.job_id].append(report_of(row))
        return found

    def latest(self, limit: int) -> Sequence[StoredReport]:
        """Newest first."""
        query = select(ReportRow).where(*self._own).order_by(ReportRow.id.desc()).limit(limit)
        return [report_of(row) for row in self._session.scalars(query)]

    def page(
        self,
        limit: int,
        after: Place | None = None,
        *,
        name: str | None = None,
        kind: JobKind | None = None,
        keys: Collection[str] | None = None,
    ) -> Sequence[StoredReport]:
        """Newest first; the id of a place is the job's. With `keys` those that such units of done jobs left."""
        query = select(ReportRow).where(*self._own)
        if name is not None:
            query = query.where(ReportRow.name == name)
        if kind is not None:
            query = query.where(ReportRow.kind == kind.value)
        if keys is not None:
            query = query.where(ReportRow.unit_key.in_(keys), _ENDED_WELL)
        if after is not None:
            query = query.where(after_place(ReportRow.created_at, ReportRow.job_id, after))
        query = query.order_by(*_NEWEST_FIRST).limit(limit)
        return [report_of(row) for row in self._session.scalars(query)]

    def by_name(
        self, limit: int, after: Place | None = None, *, kind: JobKind, keys: Collection[str]
    ) -> Sequence[Series]:
        """The reports that such units of done jobs left of each model, that with the newest report first."""
        ranked = (
            select(
                ReportRow.id,
                func.row_number().over(partition_by=ReportRow.name, order_by=_NEWEST_FIRST).label("rank"),
                func.count().over(partition_by=ReportRow.name).label("reports"),
            )
            .where(ReportRow.kind == kind.value, ReportRow.unit_key.in_(keys), _ENDED_WELL)
            .where(ReportRow.name != "", *self._own)
            .subquery()
        )
        newest = select(ReportRow, ranked.c.reports).join(ranked, ranked.c.id == ReportRow.id)
        query = newest.where(ranked.c.rank == 1)
        if after is not None:
            query = query.where(after_place(ReportRow.created_at, ReportRow.job_id, after))
        rows = self._session.execute(query.order_by(*_NEWEST_FIRST).limit(limit))
        return [Series(report_of(row), count) for row, count in rows]

    def judged_before(self, rules: int, limit: int, *, skip: int = 0) -> Sequence[StoredReport]:
        """Those whose verdict earlier rules than these gave, oldest first."""
        query = select(ReportRow).where(func.coalesce(ReportRow.rules, 0) < rules, *self._own)
        rows = self._session.scalars(query.order_by(ReportRow.id).offset(skip).limit(limit))
        return [report_of(row) for row in rows]

    def judge(self, report: StoredReport) -> None:
        """Keep its verdict, and what goes with that, unless later rules gave the one that is stored of it."""
        same = (ReportRow.job_id == report.job_id, ReportRow.unit_key == report.unit_key)
        values = {name: getattr(report, name) for name in ("verdict", "level", "looser_policy", "rules")}
        earlier = func.coalesce(ReportRow.rules, 0) < report.rules
        query = update(ReportRow).where(*same, ReportRow.digest == report.digest, earlier, *self._own)
        self._session.execute(query.values(**values))

    def without_pictures(self, job_id: str) -> Sequence[str]:
        """Take the pictures from a job's reports."""
        query = select(ReportRow).where(ReportRow.job_id == job_id, ReportRow.gallery_digest.is_not(None), *self._own)
        rows = self._session.scalars(query).all()
        digests = [str(row.gallery_digest) for row in rows]
        for row in rows:
            row.gallery_digest = None
        self._session.flush()
        return digests
