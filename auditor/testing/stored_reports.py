"""Stored reports in memory, by the same contract as `auditor.db.stored_reports`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from auditor.contracts.jobs import JobKind, JobState
from auditor.errors import NotFound
from auditor.service.records import Place, Series, StoredReport
from auditor.testing.record_tables import page_of
from auditor.testing.tables import Tables


class InMemoryReports:
    """Reports in memory."""

    def __init__(self, tables: Tables, team_id: str | None = None) -> None:
        self._tables = tables
        self._team_id = team_id

    def add(self, report: StoredReport) -> None:
        """Insert or replace."""
        self._tables.reports.pop((report.job_id, report.unit_key), None)
        self._tables.reports[report.job_id, report.unit_key] = report

    def find(self, reference: str) -> StoredReport:
        """By digest, report id or job id, or first characters of the ids."""
        rows = [
            row
            for row in self.latest(len(self._tables.reports))
            if (
                len(reference) >= 4
                and (row.report_id.startswith(reference) or (row.is_of_job and row.job_id.startswith(reference)))
            )
            or row.digest == reference
        ]
        if len({row.report_id for row in rows}) > 1 and len({row.job_id for row in rows}) > 1:
            raise NotFound(f"more than one report starts with '{reference}'")
        if not rows:
            raise NotFound(f"there is no report '{reference}'")
        return rows[0]

    def of_job(self, job_id: str) -> Sequence[StoredReport]:
        """Reports of one job, oldest first."""
        return [report for report in self._own() if report.job_id == job_id]

    def of_jobs(self, job_ids: Sequence[str]) -> Mapping[str, Sequence[StoredReport]]:
        """Reports of each of these jobs, oldest first."""
        return {job_id: self.of_job(job_id) for job_id in job_ids}

    def latest(self, limit: int) -> Sequence[StoredReport]:
        """Newest first."""
        return list(reversed(self._own()))[:limit]

    def page(
        self,
        limit: int,
        after: Place | None = None,
        *,
        name: str | None = None,
        kind: JobKind | None = None,
        keys: Collection[str] | None = None,
    ) -> Sequence[StoredReport]:
        """Newest first."""
        rows = [
            row
            for row in self._own()
            if name in (None, row.name) and kind in (None, row.kind) and (keys is None or self._is_among(row, keys))
        ]
        return page_of(rows, limit, after, _place_of)

    def _is_among(self, row: StoredReport, keys: Collection[str]) -> bool:
        return row.unit_key in keys and self._tables.jobs[row.job_id].state is JobState.DONE

    def by_name(
        self, limit: int, after: Place | None = None, *, kind: JobKind, keys: Collection[str]
    ) -> Sequence[Series]:
        """The reports of each model, that with the newest report first."""
        found: dict[str, list[StoredReport]] = {}
        for row in self.page(len(self._tables.reports), kind=kind, keys=keys):
            if row.name:
                found.setdefault(row.name, []).append(row)
        series = [Series(rows[0], len(rows)) for rows in found.values()]
        return page_of(series, limit, after, lambda row: _place_of(row.newest))

    def judged_before(self, rules: int, limit: int, *, skip: int = 0) -> Sequence[StoredReport]:
        """Those whose verdict earlier rules than these gave, oldest first."""
        return [report for report in self._own() if report.rules < rules][skip : skip + limit]

    def judge(self, report: StoredReport) -> None:
        """Keep its verdict, and what goes with that, unless later rules gave the one that is stored of it."""
        key = (report.job_id, report.unit_key)
        stored = self._tables.reports[key]
        if stored.digest == report.digest and stored.rules < report.rules:
            names = ("verdict", "level", "looser_policy", "rules")
            self._tables.reports[key] = replace(stored, **{name: getattr(report, name) for name in names})

    def without_pictures(self, job_id: str) -> Sequence[str]:
        """Take the pictures from a job's reports."""
        found = [row for row in self.of_job(job_id) if row.gallery_digest is not None]
        for key in [(row.job_id, row.unit_key) for row in found]:
            self._tables.reports[key] = replace(self._tables.reports[key], gallery_digest=None)
        return [str(row.gallery_digest) for row in found]

    def _own(self) -> list[StoredReport]:
        rows = self._tables.reports.values()
        return [row.as_told for row in rows if self._tables.owns(self._team_id, row.job_id)]


def _place_of(row: StoredReport) -> Place:
    return row.created_at, row.job_id
