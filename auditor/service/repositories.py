"""The database port: what is stored of each noun, and one transaction over all of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, Protocol, TypeVar

from auditor.contracts.jobs import Failed, JobKind, JobState, Progress, UnitResult
from auditor.service.accounts import (
    Answer,
    Baseline,
    BrowserSession,
    DataSet,
    NamedPolicy,
    Record,
    StoredWaiver,
    Team,
    Token,
    Trail,
    Upload,
    User,
)
from auditor.service.records import Job, QueuedUnit, Series, Statistics, StoredReport, Submission, Unit

R = TypeVar("R", bound=Record)
Place = tuple[datetime, str]
"""Time and id of the last row of a page: the next one goes on after it."""
GIVEN = object()
"""As a value that a row must have: any but None."""


class Submissions(Protocol):
    """Stored submissions."""

    def add(self, submission: Submission) -> None:
        """Insert a new one."""
        ...

    def get(self, submission_id: str) -> Submission:
        """By id; raises NotFound."""
        ...

    def page(self, limit: int, after: Place | None = None) -> Sequence[Submission]:
        """Newest first, those that come after `after`."""
        ...


class Jobs(Protocol):
    """Stored jobs."""

    def add(self, job: Job) -> None:
        """Insert a new one."""
        ...

    def get(self, job_id: str, *, lock: bool = False) -> Job:
        """By id, or by its first characters where they are unique; raises NotFound.

        Args:
            job_id: the id.
            lock: hold the row until the transaction ends, so that units ending together are seen one after the other.
        """
        ...

    def latest(self, limit: int) -> Sequence[Job]:
        """Newest first."""
        ...

    def page(
        self,
        limit: int,
        after: Place | None = None,
        *,
        kind: JobKind | None = None,
        name: str = "",
        states: Collection[JobState] | None = None,
    ) -> Sequence[Job]:
        """Newest first, those that come after `after`.

        Args:
            limit: how many at most.
            after: place of the last one before.
            kind: only of this kind.
            name: only those whose name holds this, in whatever case.
            states: only those that are stored in one of these.
        """
        ...

    def unfinished(self, *, kind: JobKind | None = None, name: str = "") -> Sequence[Job]:
        """All that have not ended, newest first; `kind` and `name` as in `page`."""
        ...

    def with_fingerprint(self, fingerprint: str, team_id: str) -> Job | None:
        """The team's newest job for exactly this work; what another team did is not told.

        Whoever else asks waits until the transaction ends, so that no two find none and both make one.
        """
        ...

    def set_state(self, job_id: str, state: JobState, *, error: Failed | None, finished_at: datetime | None) -> None:
        """Move the job; `error` and `finished_at` are replaced. Raises IllegalMove, see `auditor.service.states`."""
        ...

    def set_cancel_requested(self, job_id: str, requested: bool) -> None:
        """Ask for the job to stop, or take that back."""
        ...


class Units(Protocol):
    """Stored units. A claim is named by unit id and attempt number; only the holder can renew or settle it."""

    def add(self, units: Sequence[Unit]) -> None:
        """Insert new ones."""
        ...

    def get(self, unit_id: str) -> Unit:
        """By id; raises NotFound."""
        ...

    def of_job(self, job_id: str) -> Sequence[Unit]:
        """All units of a job, in the order they were made."""
        ...

    def claim(self, unit_id: str, *, worker: str, now: datetime, lease_until: datetime) -> Unit | None:
        """Take this pending unit, atomically and whoever's turn it is; None when it is not pending (any more)."""
        ...

    def renew(self, unit: Unit, *, now: datetime, lease_until: datetime, progress: Progress | None) -> bool:
        """Heartbeat of a claim; False when the claim was lost."""
        ...

    def complete(self, unit: Unit, result: UnitResult) -> bool:
        """Mark a claimed unit done; False when the claim was lost."""
        ...

    def fail(self, unit: Unit, error: Failed) -> bool:
        """Mark a claimed unit failed; False when the claim was lost."""
        ...

    def release(self, unit: Unit, *, error: Failed | None = None, not_before: datetime | None = None) -> bool:
        """Give a claimed or failed unit back as pending; False when the claim was lost.

        Args:
            unit: as it was claimed.
            error: why it has to run again; None keeps what is there.
            not_before: `Queue.claim_next` leaves it until then.
        """
        ...

    def expired(self, now: datetime) -> Sequence[Unit]:
        """Running units, of any job, whose lease ran out."""
        ...

    def finished(self, kind: JobKind, *, team_id: str, key: str) -> Sequence[Unit]:
        """Finished units of a team's jobs, those of the oldest job first.

        Args:
            kind: of the jobs.
            team_id: whose jobs.
            key: how the keys of the units end.
        """
        ...


class Queue(Protocol):
    """The units of all jobs that wait for a worker, and whose turn it is."""

    def claim_next(self, *, worker: str, now: datetime, lease_until: datetime, team_units: int) -> Unit | None:
        """Take the unit whose turn it is, atomically; None when no unit may run.

        That of the highest priority; of those, one of the team with the fewest running units; of such teams, the one
        that was served longest ago; of its units, one of the oldest job; and of that the first. A unit runs while its
        lease lasts. Left out: jobs that are to stop, units that wait for a later time, and teams that have
        `team_units` running already (0: no limit).
        """
        ...

    def waiting(self, now: datetime) -> Sequence[QueuedUnit]:
        """Every unit that waits for a worker, in no order; teams at their limit are among them."""
        ...

    def running(self, now: datetime) -> Sequence[QueuedUnit]:
        """Every unit under a live lease."""
        ...

    def served(self, now: datetime) -> Mapping[str, datetime]:
        """By team, when a unit of it was last taken or heard of. Jobs that ended over an hour ago no longer count."""
        ...

    def typical_seconds(self) -> Mapping[str, float]:
        """By kind of unit, the median of what the last finished ones took."""
        ...

    def statistics(self, now: datetime) -> Statistics:
        """Counts for whoever watches the service."""
        ...


class Reports(Protocol):
    """Stored reports."""

    def add(self, report: StoredReport) -> None:
        """Insert; the same unit's earlier report is replaced."""
        ...

    def find(self, reference: str) -> StoredReport:
        """By report id (or its unique first characters), or by the id of a job (its last report); raises NotFound."""
        ...

    def of_job(self, job_id: str) -> Sequence[StoredReport]:
        """Reports of one job, oldest first."""
        ...

    def of_jobs(self, job_ids: Sequence[str]) -> Mapping[str, Sequence[StoredReport]]:
        """Reports of each of these jobs, oldest first; nothing for a job that has none."""
        ...

    def page(
        self,
        limit: int,
        after: Place | None = None,
        *,
        name: str | None = None,
        kind: JobKind | None = None,
        keys: Collection[str] | None = None,
    ) -> Sequence[StoredReport]:
        """Newest first, those that come after `after`, whose id is a job's.

        Args:
            limit: how many at most.
            after: place of the last one before.
            name: only of this model.
            kind: only of this kind.
            keys: only those that a unit with one of these keys left.
        """
        ...

    def by_name(
        self, limit: int, after: Place | None = None, *, kind: JobKind, keys: Collection[str]
    ) -> Sequence[Series]:
        """The reports of each model, that with the newest report first; a place is that report's.

        Reports without a name are left out; `kind` and `keys` as in `page`.
        """
        ...

    def without_pictures(self, job_id: str) -> Sequence[str]:
        """Take the pictures from a job's reports; returns the galleries' digests."""
        ...

    def latest(self, limit: int) -> Sequence[StoredReport]:
        """Newest first."""
        ...


class Table(Protocol[R]):
    """Records of one kind. In a team's transaction, no other team's rows exist."""

    def add(self, record: R) -> None:
        """Insert; raises Conflict where a unique field is taken."""
        ...

    def get(self, record_id: str, *, lock: bool = False) -> R:
        """By id; raises NotFound. With `lock`, others who lock the row wait until the transaction ends."""
        ...

    def find(self, **equal: Any) -> R | None:
        """The one whose fields have these values (None where there is none)."""
        ...

    def page(self, limit: int, after: Place | None = None, **equal: Any) -> Sequence[R]:
        """Newest first, those that come after `after` and have these values; of a frozenset, any of them."""
        ...

    def change(self, record_id: str, where: Mapping[str, Any] | None = None, **values: Any) -> bool:
        """Set fields of one row, atomically; False when it is not there or is not as `where` says.

        Raises Conflict where a unique field is taken.
        """
        ...

    def remove(self, record_id: str, where: Mapping[str, Any] | None = None) -> bool:
        """Delete; False when it was not there or is not as `where` says."""
        ...


class Outbox(Protocol):
    """Units to be sent to the queue, written in the transaction that made them."""

    def add(self, unit_ids: Sequence[str]) -> None:
        """Remember to send these."""
        ...

    def pending(self) -> Sequence[tuple[int, str]]:
        """(entry, unit id) not yet sent; entries another process is sending now are left out."""
        ...

    def remove(self, entry: int) -> None:
        """It was sent."""
        ...


class References(Protocol):
    """What the database says of artifacts."""

    def mentioned(self) -> frozenset[str]:
        """Every sha256 that stands anywhere in it, so also those of no artifact.

        Left out: the audit log and the answers to requests, which go on telling of what was let go.
        """
        ...


class UnitOfWork(Protocol):
    """One transaction over all repositories."""

    @property
    def submissions(self) -> Submissions:
        """Submissions in this transaction."""
        ...

    @property
    def jobs(self) -> Jobs:
        """Jobs in this transaction."""
        ...

    @property
    def units(self) -> Units:
        """Units in this transaction."""
        ...

    @property
    def queue(self) -> Queue:
        """The queue in this transaction."""
        ...

    @property
    def reports(self) -> Reports:
        """Reports in this transaction."""
        ...

    @property
    def outbox(self) -> Outbox:
        """The outbox in this transaction."""
        ...

    @property
    def references(self) -> References:
        """Mentions of artifacts in this transaction."""
        ...

    @property
    def teams(self) -> Table[Team]:
        """Teams."""
        ...

    @property
    def users(self) -> Table[User]:
        """People."""
        ...

    @property
    def tokens(self) -> Table[Token]:
        """API tokens."""
        ...

    @property
    def sessions(self) -> Table[BrowserSession]:
        """Sign-ins."""
        ...

    @property
    def trail(self) -> Table[Trail]:
        """The audit log."""
        ...

    @property
    def uploads(self) -> Table[Upload]:
        """Files that are being sent."""
        ...

    @property
    def data_sets(self) -> Table[DataSet]:
        """Named data sets."""
        ...

    @property
    def policies(self) -> Table[NamedPolicy]:
        """Named policies."""
        ...

    @property
    def baselines(self) -> Table[Baseline]:
        """Approved audits by model."""
        ...

    @property
    def waivers(self) -> Table[StoredWaiver]:
        """Waivers."""
        ...

    @property
    def answers(self) -> Table[Answer]:
        """Answers to requests with an Idempotency-Key."""
        ...


Transactions = Callable[[], AbstractContextManager[UnitOfWork]]
"""Opens a transaction: commits when the block ends well, rolls back when it raises.

A database that cannot be used raises StorageFailure.
"""


class Database(Protocol):
    """All transactions: calling it opens one over everything, as workers need it."""

    def __call__(self) -> AbstractContextManager[UnitOfWork]:
        """A transaction that sees every team."""
        ...

    def of_team(self, team_id: str) -> Transactions:
        """Transactions in which nothing but this team's rows exists."""
        ...
