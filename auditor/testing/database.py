"""The database port in memory; it keeps to the same contract as the SQL one, and the same tests run on both."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeVar

from auditor.contracts.jobs import Failed, JobState, Progress, UnitResult, UnitState
from auditor.errors import NotFound, StorageFailure
from auditor.service.records import Job, StoredReport, Submission, Unit
from auditor.service.states import require_move, unit_sources
from auditor.testing.tables import Tables
from auditor.testing.unit_queue import InMemoryUnitQueue, claimed

R = TypeVar("R")


class InMemorySubmissions:
    """Submissions in memory."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def add(self, submission: Submission) -> None:
        """Insert."""
        self._tables.submissions[submission.id] = submission

    def get(self, submission_id: str) -> Submission:
        """By id."""
        if submission_id not in self._tables.submissions:
            raise NotFound(f"there is no submission '{submission_id}'")
        return self._tables.submissions[submission_id]


class InMemoryJobs:
    """Jobs in memory."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def add(self, job: Job) -> None:
        """Insert."""
        self._tables.jobs[job.id] = job

    def get(self, job_id: str, *, lock: bool = False) -> Job:
        """By id or unique first characters; a transaction holds everything anyway."""
        found = _starting(self._tables.jobs, job_id)
        if len(found) > 1:
            raise NotFound(f"more than one job starts with '{job_id}'")
        if not found:
            raise NotFound(f"there is no job '{job_id}'")
        return found[0]

    def latest(self, limit: int) -> Sequence[Job]:
        """Newest first."""
        return sorted(self._tables.jobs.values(), key=lambda job: (-job.created_at.timestamp(), job.id))[:limit]

    def with_fingerprint(self, fingerprint: str, team_id: str) -> Job | None:
        """The team's newest job for this work."""
        newest = self.latest(len(self._tables.jobs))
        return next((job for job in newest if (job.fingerprint, job.team_id) == (fingerprint, team_id)), None)

    def set_state(self, job_id: str, state: JobState, *, error: Failed | None, finished_at: datetime | None) -> None:
        """Move the job, if it may go there."""
        jobs = self._tables.jobs
        require_move(job_id, jobs[job_id].state, state)
        jobs[job_id] = replace(jobs[job_id], state=state, error=error, finished_at=finished_at)

    def set_cancel_requested(self, job_id: str, requested: bool) -> None:
        """Set or take back the wish to stop."""
        self._tables.jobs[job_id] = replace(self._tables.jobs[job_id], cancel_requested=requested)


class InMemoryUnits:
    """Units in memory."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def add(self, units: Sequence[Unit]) -> None:
        """Insert; a key that the job has already is refused, as the database does."""
        for unit in units:
            if any(other.spec.key == unit.spec.key for other in self.of_job(unit.job_id)):
                raise StorageFailure(f"the database could not be used: unit '{unit.spec.key}' exists")
            self._tables.units[unit.id] = unit

    def get(self, unit_id: str) -> Unit:
        """By id."""
        if unit_id not in self._tables.units:
            raise NotFound(f"there is no unit '{unit_id}'")
        return self._tables.units[unit_id]

    def of_job(self, job_id: str) -> Sequence[Unit]:
        """All units of a job, in the order they were made."""
        return sorted((u for u in self._tables.units.values() if u.job_id == job_id), key=lambda unit: unit.position)

    def claim(self, unit_id: str, *, worker: str, now: datetime, lease_until: datetime) -> Unit | None:
        """Take a pending unit."""
        unit = self.get(unit_id)
        if unit.state is not UnitState.PENDING:
            return None
        return self._put(unit, **claimed(unit, worker=worker, now=now, until=lease_until))

    def renew(self, unit: Unit, *, now: datetime, lease_until: datetime, progress: Progress | None) -> bool:
        """Heartbeat."""
        renewed = {"heartbeat_at": now, "lease_until": lease_until, "progress": progress}
        return self._change(unit, (UnitState.RUNNING,), **renewed)

    def complete(self, unit: Unit, result: UnitResult) -> bool:
        """Mark done."""
        return self._move(unit, UnitState.DONE, result=result)

    def fail(self, unit: Unit, error: Failed) -> bool:
        """Mark failed."""
        return self._move(unit, UnitState.FAILED, error=error)

    def release(self, unit: Unit, *, error: Failed | None = None, not_before: datetime | None = None) -> bool:
        """Give back."""
        reason = {} if error is None else {"error": error}
        return self._move(unit, UnitState.PENDING, worker=None, lease_until=not_before, **reason)

    def expired(self, now: datetime) -> Sequence[Unit]:
        """Running units whose lease ran out."""
        running = (unit for unit in self._tables.units.values() if unit.state is UnitState.RUNNING)
        late = [unit for unit in running if unit.lease_until is not None and unit.lease_until < now]
        return sorted(late, key=lambda unit: (unit.job_id, unit.position))

    def _move(self, unit: Unit, after: UnitState, **values: Any) -> bool:
        ended = {"lease_until": None, "progress": None, "state": after}
        return self._change(unit, unit_sources(after), **ended | values)

    def _change(self, unit: Unit, states: Sequence[UnitState], **values: Any) -> bool:
        current = self.get(unit.id)
        if current.attempt != unit.attempt or current.state not in states:
            return False
        self._put(current, **values)
        return True

    def _put(self, unit: Unit, **values: Any) -> Unit:
        self._tables.units[unit.id] = replace(unit, **values)
        return self._tables.units[unit.id]


class InMemoryReports:
    """Reports in memory."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def add(self, report: StoredReport) -> None:
        """Insert or replace."""
        self._tables.reports.pop((report.job_id, report.unit_key), None)
        self._tables.reports[report.job_id, report.unit_key] = report

    def find(self, reference: str) -> StoredReport:
        """By report id or job id, or their first characters."""
        rows = [
            row
            for row in self.latest(len(self._tables.reports))
            if len(reference) >= 4 and (row.report_id.startswith(reference) or row.job_id.startswith(reference))
        ]
        if len({row.report_id for row in rows}) > 1 and len({row.job_id for row in rows}) > 1:
            raise NotFound(f"more than one report starts with '{reference}'")
        if not rows:
            raise NotFound(f"there is no report '{reference}'")
        return rows[0]

    def of_job(self, job_id: str) -> Sequence[StoredReport]:
        """Reports of one job, oldest first."""
        return [report for report in self._tables.reports.values() if report.job_id == job_id]

    def latest(self, limit: int) -> Sequence[StoredReport]:
        """Newest first."""
        return list(reversed(self._tables.reports.values()))[:limit]


class InMemoryOutbox:
    """Units to announce, in memory."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def add(self, unit_ids: Sequence[str]) -> None:
        """Remember to send these."""
        for unit_id in unit_ids:
            self._tables.sent += 1
            self._tables.outbox[self._tables.sent] = unit_id

    def pending(self) -> Sequence[tuple[int, str]]:
        """Not yet sent."""
        return list(self._tables.outbox.items())

    def remove(self, entry: int) -> None:
        """It was sent."""
        del self._tables.outbox[entry]


class InMemoryReferences:
    """Mentions of artifacts, in memory."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def mentioned(self) -> frozenset[str]:
        """Every sha256 in any record."""
        return frozenset(re.findall(r"\b[0-9a-f]{64}\b", repr(self._tables)))


@dataclass(frozen=True)
class InMemoryUnitOfWork:
    """The repositories of one open transaction."""

    submissions: InMemorySubmissions
    jobs: InMemoryJobs
    units: InMemoryUnits
    queue: InMemoryUnitQueue
    reports: InMemoryReports
    outbox: InMemoryOutbox
    references: InMemoryReferences


class InMemoryTransactions:
    """Opens transactions on copies of the tables, one at a time; a block that raises changes nothing.

    Attributes:
        broken: as if the database could not be reached.
        committed: how many transactions were committed.
        before_commit: called at the end of every block; what it raises rolls back.
    """

    def __init__(self) -> None:
        self.broken = False
        self.committed = 0
        self.before_commit: Callable[[InMemoryUnitOfWork], None] = lambda _work: None
        self.tables = Tables()
        self._lock = threading.Lock()

    @contextmanager
    def __call__(self) -> Iterator[InMemoryUnitOfWork]:
        """One transaction."""
        if not self._lock.acquire(timeout=10):
            raise AssertionError("a transaction was opened inside another one")
        try:
            if self.broken:
                raise StorageFailure("the database could not be used: connection refused")
            tables = self.tables.copy()
            work = InMemoryUnitOfWork(
                InMemorySubmissions(tables),
                InMemoryJobs(tables),
                InMemoryUnits(tables),
                InMemoryUnitQueue(tables),
                InMemoryReports(tables),
                InMemoryOutbox(tables),
                InMemoryReferences(tables),
            )
            yield work
            self.before_commit(work)
            self.tables = tables
            self.committed += 1
        finally:
            self._lock.release()


def _starting(table: Mapping[str, R], reference: str) -> list[R]:
    if reference in table:
        return [table[reference]]
    return [value for key, value in table.items() if len(reference) >= 4 and key.startswith(reference)]
