"""The database port in memory; it keeps to the same contract as the SQL one, and the same tests run on both."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from auditor.contracts.jobs import Failed, JobKind, JobState, Progress, UnitResult, UnitState
from auditor.errors import NotFound, StorageFailure
from auditor.service import accounts
from auditor.service.records import Job, Place, Submission, Unit
from auditor.service.repositories import Transactions
from auditor.service.states import LIVE, require_move, unit_sources
from auditor.testing.record_tables import InMemoryTable, page_of
from auditor.testing.stored_reports import InMemoryReports
from auditor.testing.tables import Tables
from auditor.testing.unit_queue import InMemoryUnitQueue, claimed

A = TypeVar("A", bound=accounts.Record)
R = TypeVar("R")


class InMemorySubmissions:
    """Submissions in memory."""

    def __init__(self, tables: Tables, team_id: str | None = None) -> None:
        self._tables = tables
        self._team_id = team_id

    def add(self, submission: Submission) -> None:
        """Insert."""
        self._tables.submissions[submission.id] = submission

    def get(self, submission_id: str) -> Submission:
        """By id."""
        found = self._tables.submissions.get(submission_id)
        if found is None or self._team_id not in (None, found.team_id):
            raise NotFound(f"there is no submission '{submission_id}'")
        return found

    def page(self, limit: int, after: Place | None = None) -> Sequence[Submission]:
        """Newest first."""
        own = [row for row in self._tables.submissions.values() if self._team_id in (None, row.team_id)]
        return page_of(own, limit, after, lambda row: (row.created_at, row.id))


class InMemoryJobs:
    """Jobs in memory."""

    def __init__(self, tables: Tables, team_id: str | None = None) -> None:
        self._tables = tables
        self._team_id = team_id

    def add(self, job: Job) -> None:
        """Insert."""
        self._tables.jobs[job.id] = job

    def get(self, job_id: str, *, lock: bool = False) -> Job:
        """By id or unique first characters; a transaction holds everything anyway."""
        found = _starting(self._own(), job_id)
        if len(found) > 1:
            raise NotFound(f"more than one job starts with '{job_id}'")
        if not found:
            raise NotFound(f"there is no job '{job_id}'")
        return found[0]

    def latest(self, limit: int) -> Sequence[Job]:
        """Newest first."""
        return self.page(limit)

    def page(
        self,
        limit: int,
        after: Place | None = None,
        *,
        kind: JobKind | None = None,
        name: str = "",
        states: Collection[JobState] | None = None,
    ) -> Sequence[Job]:
        """Newest first."""
        rows = [
            job
            for job in self._own().values()
            if kind in (None, job.kind) and name.lower() in job.name.lower() and (states is None or job.state in states)
        ]
        return page_of(rows, limit, after, lambda job: (job.created_at, job.id))

    def unfinished(self, *, kind: JobKind | None = None, name: str = "") -> Sequence[Job]:
        """All that have not ended, newest first."""
        return self.page(len(self._tables.jobs), kind=kind, name=name, states=LIVE)

    def with_fingerprint(self, fingerprint: str, team_id: str) -> Job | None:
        """The team's newest job for this work."""
        newest = self.latest(len(self._tables.jobs))
        return next((job for job in newest if (job.fingerprint, job.team_id) == (fingerprint, team_id)), None)

    def set_state(self, job_id: str, state: JobState, *, error: Failed | None, finished_at: datetime | None) -> None:
        """Move the job, if it may go there."""
        if job_id in self._own():
            require_move(job_id, self._tables.jobs[job_id].state, state)
            self._change(job_id, state=state, error=error, finished_at=finished_at)

    def set_cancel_requested(self, job_id: str, requested: bool) -> None:
        """Set or take back the wish to stop."""
        self._change(job_id, cancel_requested=requested)

    def set_priority(self, job_id: str, priority: int) -> None:
        """Change its place among those that wait."""
        self._change(job_id, priority=priority)

    def _change(self, job_id: str, **values: Any) -> None:
        if job_id in self._own():
            self._tables.jobs[job_id] = replace(self._tables.jobs[job_id], **values)

    def _own(self) -> Mapping[str, Job]:
        return {key: job for key, job in self._tables.jobs.items() if self._team_id in (None, job.team_id)}


class InMemoryUnits:
    """Units in memory."""

    def __init__(self, tables: Tables, team_id: str | None = None) -> None:
        self._tables = tables
        self._team_id = team_id

    def add(self, units: Sequence[Unit]) -> None:
        """Insert; a key that the job has already is refused, as the database does."""
        for unit in units:
            if any(other.spec.key == unit.spec.key for other in self.of_job(unit.job_id)):
                raise StorageFailure(f"the database could not be used: unit '{unit.spec.key}' exists")
            self._tables.units[unit.id] = unit

    def get(self, unit_id: str) -> Unit:
        """By id."""
        found = self._tables.units.get(unit_id)
        if found is None or not self._tables.owns(self._team_id, found.job_id):
            raise NotFound(f"there is no unit '{unit_id}'")
        return found

    def of_job(self, job_id: str) -> Sequence[Unit]:
        """All units of a job, in the order they were made."""
        return sorted((u for u in self._own() if u.job_id == job_id), key=lambda unit: unit.position)

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
        running = (unit for unit in self._own() if unit.state is UnitState.RUNNING)
        late = [unit for unit in running if unit.lease_until is not None and unit.lease_until < now]
        return sorted(late, key=lambda unit: (unit.job_id, unit.position))

    def finished(self, kind: JobKind, *, team_id: str, key: str) -> Sequence[Unit]:
        """Finished units of a team's jobs, those of the oldest job first."""
        jobs = {id_: job for id_, job in self._tables.jobs.items() if (job.team_id, job.kind) == (team_id, kind)}
        ended = [u for u in self._own() if u.job_id in jobs and u.state is UnitState.DONE and u.spec.key.endswith(key)]
        return sorted(ended, key=lambda u: (jobs[u.job_id].created_at, u.job_id, u.position))

    def _own(self) -> list[Unit]:
        return [unit for unit in self._tables.units.values() if self._tables.owns(self._team_id, unit.job_id)]

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


class InMemoryOutbox:
    """Units to announce, in memory."""

    def __init__(self, tables: Tables, team_id: str | None = None) -> None:
        self._tables = tables
        self._team_id = team_id

    def add(self, unit_ids: Sequence[str]) -> None:
        """Remember to send these."""
        for unit_id in unit_ids:
            self._tables.sent += 1
            self._tables.outbox[self._tables.sent] = unit_id

    def pending(self) -> Sequence[tuple[int, str]]:
        """Not yet sent."""
        units = self._tables.units
        return [
            (entry, unit_id)
            for entry, unit_id in self._tables.outbox.items()
            if self._tables.owns(self._team_id, units[unit_id].job_id)
        ]

    def remove(self, entry: int) -> None:
        """It was sent."""
        del self._tables.outbox[entry]


class InMemoryReferences:
    """Mentions of artifacts, in memory."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def mentioned(self) -> frozenset[str]:
        """Every sha256 in any record, but for those that only say what was done."""
        telling = (accounts.Answer, accounts.Trail)
        records = {kind: rows for kind, rows in self._tables.records.items() if kind not in telling}
        return frozenset(re.findall(r"\b[0-9a-f]{64}\b", repr(replace(self._tables, records=records))))


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
    teams: InMemoryTable[accounts.Team]
    users: InMemoryTable[accounts.User]
    tokens: InMemoryTable[accounts.Token]
    sessions: InMemoryTable[accounts.BrowserSession]
    trail: InMemoryTable[accounts.Trail]
    uploads: InMemoryTable[accounts.Upload]
    data_sets: InMemoryTable[accounts.DataSet]
    policies: InMemoryTable[accounts.NamedPolicy]
    baselines: InMemoryTable[accounts.Baseline]
    waivers: InMemoryTable[accounts.StoredWaiver]
    answers: InMemoryTable[accounts.Answer]


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

    def __call__(self) -> AbstractContextManager[InMemoryUnitOfWork]:
        """A transaction that sees every team."""
        return self._open(None)

    def of_team(self, team_id: str) -> Transactions:
        """Transactions in which nothing but this team's rows exists."""
        return partial(self._open, team_id)

    @contextmanager
    def _open(self, team_id: str | None) -> Iterator[InMemoryUnitOfWork]:
        if not self._lock.acquire(timeout=10):
            raise AssertionError("a transaction was opened inside another one")
        try:
            if self.broken:
                raise StorageFailure("the database could not be used: connection refused")
            tables = self.tables.copy()
            work = _work(tables, team_id)
            yield work
            self.before_commit(work)
            self.tables = tables
            self.committed += 1
        finally:
            self._lock.release()


def _work(tables: Tables, team_id: str | None) -> InMemoryUnitOfWork:
    def table(record: type[A]) -> InMemoryTable[A]:
        return InMemoryTable(tables.records.setdefault(record, {}), record, team_id)

    return InMemoryUnitOfWork(
        InMemorySubmissions(tables, team_id),
        InMemoryJobs(tables, team_id),
        InMemoryUnits(tables, team_id),
        InMemoryUnitQueue(tables),
        InMemoryReports(tables, team_id),
        InMemoryOutbox(tables, team_id),
        InMemoryReferences(tables),
        teams=table(accounts.Team),
        users=table(accounts.User),
        tokens=table(accounts.Token),
        sessions=table(accounts.BrowserSession),
        trail=table(accounts.Trail),
        uploads=table(accounts.Upload),
        data_sets=table(accounts.DataSet),
        policies=table(accounts.NamedPolicy),
        baselines=table(accounts.Baseline),
        waivers=table(accounts.StoredWaiver),
        answers=table(accounts.Answer),
    )


def _starting(table: Mapping[str, R], reference: str) -> list[R]:
    if reference in table:
        return [table[reference]]
    return [value for key, value in table.items() if len(reference) >= 4 and key.startswith(reference)]
