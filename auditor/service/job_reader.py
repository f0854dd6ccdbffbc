"""Reading jobs of any kind: where one is, which there are, following one until it ends."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from auditor.contracts.jobs import JobKind, JobState, JobView, UnitView
from auditor.errors import WaitTimeout
from auditor.service.execution import OnEvent, ignore
from auditor.service.ports import Clock
from auditor.service.records import Job, Place
from auditor.service.repositories import Transactions, UnitOfWork
from auditor.service.states import TERMINAL
from auditor.service.views import Line, changes, job_view

POLL_S = 1.0


class JobReader:
    """What is stored of jobs; changes nothing.

    Args:
        transactions: the database.
        clock: the time.
    """

    def __init__(self, *, transactions: Transactions, clock: Clock) -> None:
        self._transactions = transactions
        self._clock = clock

    def wait(self, job_id: str, on_event: OnEvent = ignore, *, timeout_s: float | None = None) -> JobView:
        """Follow a job that workers run, until it ends.

        Raises:
            WaitTimeout: it goes on, but not within `timeout_s`.
        """
        deadline = None if timeout_s is None else self._clock.now().timestamp() + timeout_s
        told: dict[str, UnitView] = {}
        while True:
            view = self.status(job_id)
            for event in changes(view, told):
                on_event(event)
            if view.state in TERMINAL:
                return view
            if deadline is not None and self._clock.now().timestamp() >= deadline:
                raise WaitTimeout(f"job {view.id} was not done after {timeout_s:g} s; it goes on")
            self._clock.sleep(POLL_S)

    def status(self, job_id: str) -> JobView:
        """Where a job is, with its units."""
        now = self._clock.now()
        with self._transactions() as tx:
            job = tx.jobs.get(job_id)
            line = Line() if job.state in TERMINAL else Line.read(tx, now)
            return job_view(job, tx.units.of_job(job.id), tx.reports.of_job(job.id), line, now)

    def list(self, limit: int = 50) -> tuple[JobView, ...]:
        """The newest jobs, without their units."""
        with self._transactions() as tx:
            return self._views(tx, tx.jobs.latest(limit))

    def page(
        self,
        limit: int,
        after: Place | None = None,
        *,
        kind: JobKind | None = None,
        name: str = "",
        states: Collection[JobState] | None = None,
    ) -> tuple[tuple[Place, JobView], ...]:
        """The jobs that come after `after`, newest first and without their units, each with its place.

        Args:
            limit: how many at most.
            after: place of the last one before.
            kind: only of this kind.
            name: only those whose name holds this, in whatever case.
            states: only those that are stored in one of these.
        """
        with self._transactions() as tx:
            jobs = tx.jobs.page(limit, after, kind=kind, name=name, states=states)
            views = self._views(tx, jobs)
        return tuple(((job.created_at, job.id), view) for job, view in zip(jobs, views, strict=True))

    def unfinished(self, *, kind: JobKind | None = None, name: str = "") -> tuple[JobView, ...]:
        """All jobs that run or wait, newest first; those that a worker is at with their units."""
        with self._transactions() as tx:
            return self._views(tx, tx.jobs.unfinished(kind=kind, name=name), units=True)

    def has_left(self, job_id: str, digest: str) -> bool:
        """Whether a unit of the job left this artifact: what a report says of it was written by a runner process."""
        with self._transactions() as tx:
            units = tx.units.of_job(tx.jobs.get(job_id).id)
        return any(unit.result is not None and digest in unit.result.outputs.values() for unit in units)

    def _views(self, tx: UnitOfWork, jobs: Sequence[Job], *, units: bool = False) -> tuple[JobView, ...]:
        """The queue and the reports are read once for all; the queue not where it says nothing of any of them."""
        now = self._clock.now()
        line = Line() if all(job.state in TERMINAL for job in jobs) else Line.read(tx, now)
        reports = tx.reports.of_jobs([job.id for job in jobs])
        running = line.running if units else frozenset[str]()
        return tuple(
            job_view(job, tx.units.of_job(job.id) if job.id in running else (), reports[job.id], line, now)
            for job in jobs
        )
