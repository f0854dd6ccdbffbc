"""The database port: reports, what teams own, and one transaction over all that is stored."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from auditor.contracts.jobs import JobKind
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
from auditor.service.records import Place, Series, StoredReport
from auditor.service.work_repositories import Jobs, Outbox, Queue, Submissions, Units

R = TypeVar("R", bound=Record)
GIVEN = object()
"""As a value that a row must have: any but None."""


class Reports(Protocol):
    """Stored reports, each as lists tell it (`StoredReport.as_told`)."""

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

    def judged_before(self, rules: int, limit: int, *, skip: int = 0) -> Sequence[StoredReport]:
        """Those whose verdict earlier rules than these gave, oldest first, without the oldest so many."""
        ...

    def judge(self, report: StoredReport) -> None:
        """Keep verdict, level, `looser_policy` and `rules` of this report, unless later rules gave what is stored."""
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
