"""Use-cases on jobs of any kind: create, run in place, cancel, resume, recover."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from auditor.contracts.base import code_digest, digest_of
from auditor.contracts.jobs import JobKind, JobState, JobView, UnitState
from auditor.errors import Conflict, NotFound, RunnerDied, StorageFailure
from auditor.service.advance import advance, stop_if_idle
from auditor.service.execution import Executor, OnEvent, ignore
from auditor.service.failures import failure_of
from auditor.service.job_reader import POLL_S, JobReader
from auditor.service.journal import tell
from auditor.service.pipeline import Pipeline
from auditor.service.ports import Clock
from auditor.service.records import Job, Submission, Unit
from auditor.service.repositories import Transactions, UnitOfWork
from auditor.service.states import TERMINAL


@dataclass(frozen=True)
class Started:
    """A job, new or found.

    Attributes:
        job_id: its id.
        reused: the same work (inputs and code) was there already.
        state: where it is now.
    """

    job_id: str
    reused: bool
    state: JobState

    @property
    def told(self) -> str:
        """What there is to say of a job that was there already; empty: it is new."""
        if not self.reused:
            return ""
        return f"stored already{'' if self.state is JobState.DONE else ', and goes on'}; --fresh runs it again"


class Jobs(JobReader):
    """Jobs of any kind: also what changes them.

    Args:
        transactions: the database.
        executor: runs units.
        clock: the time.
        pipelines: how each kind of job runs.
        submitter: the person in whose name jobs are created.
    """

    def __init__(
        self,
        *,
        transactions: Transactions,
        executor: Executor,
        clock: Clock,
        pipelines: Mapping[JobKind, Pipeline],
        submitter: str = "",
    ) -> None:
        super().__init__(transactions=transactions, clock=clock)
        self._executor = executor
        self._pipelines = pipelines
        self._submitter = submitter

    def start(
        self,
        kind: JobKind,
        payload: Mapping[str, Any],
        submission: Submission,
        *,
        new_submission: bool,
        fresh: bool,
        again: bool = False,
        priority: int = 0,
        request_id: str | None = None,
    ) -> Started:
        """Create a job with its first units, in one transaction; or find the one that does this work already.

        A found job that was cancelled, is being cancelled or has failed is resumed: finished units are not run again.

        Args:
            kind: what it does.
            payload: JSON of the kind's contract.
            submission: what it works on.
            new_submission: the submission is stored with it.
            fresh: make a new job in any case.
            again: make a new job unless the newest one that does this work is unfinished.
            priority: of jobs that wait, those with a higher one go first; a found job that is not done takes
                a higher one.
            request_id: becomes the id of a new job, so that no request makes two; see `of_request`.

        Raises:
            Conflict: what would run needs files that the team's retention has deleted.
        """
        fingerprint = digest_of({"kind": kind.value, "payload": dict(payload), "code": code_digest()})
        missing = self._missing(payload.get("inputs", {}), payload.get("data", {}))
        with self._transactions() as tx:
            made = _made_by(tx, request_id)
            found = None if fresh or made is not None else tx.jobs.with_fingerprint(fingerprint, submission.team_id)
            if again and found is not None and found.state in TERMINAL:
                found = None
            if found is not None and priority > found.priority and found.state is not JobState.DONE:
                tx.jobs.set_priority(found.id, priority)
            if made is None and found is None:
                _refuse_without(missing)
                job = Job(
                    id=request_id or secrets.token_hex(16),
                    kind=kind,
                    name=submission.name,
                    submission_id=submission.id,
                    fingerprint=fingerprint,
                    payload=dict(payload),
                    created_at=self._clock.now(),
                    team_id=submission.team_id,
                    priority=priority,
                    submitter=self._submitter,
                )
                if new_submission:
                    tx.submissions.add(submission)
                tx.jobs.add(job)
                self._advance(tx, job)
        if made is not None:
            return Started(made.id, reused=False, state=made.state)
        if found is not None:
            state = found.state
            if found.cancel_requested or state in (JobState.CANCELLED, JobState.FAILED):
                state = self.resume(found.id).state
            return Started(found.id, reused=True, state=state)
        self._executor.announce()
        return Started(job.id, reused=False, state=job.state)

    def of_request(self, request_id: str | None) -> Started | None:
        """The job that this request made, even with `fresh`, if it was here before: its answer may have been lost."""
        if request_id is None:
            return None
        with self._transactions() as tx:
            made = _made_by(tx, request_id)
        return None if made is None else Started(made.id, reused=False, state=made.state)

    def run_in_place(self, job_id: str, on_event: OnEvent = ignore) -> JobView:
        """Run a job's units here, one after the other, until it ends; other processes may take units of it too.

        Raises:
            Cancelled: a unit was stopped because somebody cancelled the job; they may have resumed it since.
            KeyboardInterrupt: it is then marked cancelled and can be resumed.
            StorageFailure: the database or the store failed; the job is marked failed where that can still be written.
        """
        job_id = self.status(job_id).id
        try:
            while True:
                with self._transactions() as tx:
                    job = tx.jobs.get(job_id, lock=True)
                    if job.state in TERMINAL:
                        break
                    self._recover(tx, [unit for unit in tx.units.expired(self._clock.now()) if unit.job_id == job_id])
                    units = tx.units.of_job(job_id)
                    waiting = [unit.id for unit in units if unit.state is UnitState.PENDING]
                if waiting:
                    self._executor.execute_unit(waiting[0], on_event)
                else:
                    self._clock.sleep(POLL_S)  # another process has the rest
        except KeyboardInterrupt:
            self.cancel(job_id)
            raise
        except StorageFailure as error:
            self._mark_failed(job_id, error)
            raise
        return self.status(job_id)

    def cancel(self, job_id: str) -> JobView:
        """Ask a job to stop. Running units are stopped within seconds and wait; finished ones are kept."""
        with self._transactions() as tx:
            job = tx.jobs.get(job_id, lock=True)
            if job.state not in TERMINAL:
                tx.jobs.set_cancel_requested(job.id, True)
                stop_if_idle(tx, tx.jobs.get(job.id), self._clock.now())
        return self.status(job_id)

    def resume(self, job_id: str) -> JobView:
        """Go on with a job that was cancelled, has failed, or whose worker died; a finished job is left as it is.

        Units that failed the job run again, and those that waited are announced again.

        Raises:
            Conflict: these units need files that the team's retention has deleted.
        """
        with self._transactions() as tx:
            job = tx.jobs.get(job_id)
            units = [] if job.state is JobState.DONE else self._to_run(tx, job)
        _refuse_without(self._missing(*(unit.spec.inputs for unit in units)))
        with self._transactions() as tx:
            job = tx.jobs.get(job_id, lock=True)
            if job.state is not JobState.DONE:
                tx.jobs.set_cancel_requested(job.id, False)
                if job.state in TERMINAL:
                    runs = any(unit.state is UnitState.RUNNING for unit in tx.units.of_job(job.id))
                    state = JobState.RUNNING if runs else JobState.QUEUED
                    tx.jobs.set_state(job.id, state, error=None, finished_at=None)
                self._recover(tx, [unit for unit in tx.units.expired(self._clock.now()) if unit.job_id == job.id])
                waiting = self._to_run(tx, job)
                for unit in waiting:
                    if unit.state is UnitState.FAILED:
                        tx.units.release(unit)
                tx.outbox.add([unit.id for unit in waiting])
                self._advance(tx, tx.jobs.get(job.id))
        self._executor.announce()
        return self.status(job_id)

    def recover(self) -> int:
        """Put back every unit whose worker died (its lease ran out); returns how many. Workers do it as they start."""
        with self._transactions() as tx:
            job_ids = sorted({unit.job_id for unit in tx.units.expired(self._clock.now())})
        found = 0
        for job_id in job_ids:
            with self._transactions() as tx:
                tx.jobs.get(job_id, lock=True)
                expired = [unit for unit in tx.units.expired(self._clock.now()) if unit.job_id == job_id]
                self._recover(tx, expired)
            found += len(expired)
        self._executor.announce()
        return found

    def _missing(self, *tables: Mapping[str, str]) -> set[str]:
        """Files that are no longer stored. The store may be slow, so it is asked outside transactions."""
        files = {item for table in tables for item in table.items()}
        return {name for name, digest in files if not self._executor.has_stored(digest)}

    def _to_run(self, tx: UnitOfWork, job: Job) -> Sequence[Unit]:
        """Units that wait, and those that failed the job."""
        tolerates = self._pipelines[job.kind].tolerates
        return [
            unit
            for unit in tx.units.of_job(job.id)
            if unit.state is UnitState.PENDING or (unit.state is UnitState.FAILED and not tolerates(unit.spec.key))
        ]

    def _recover(self, tx: UnitOfWork, expired: Sequence[Unit]) -> None:
        for unit in expired:
            job, last = tx.jobs.get(unit.job_id), unit.attempt >= self._executor.rules.max_attempts
            died = f"the worker that ran unit '{unit.spec.key}' died"
            failure = failure_of(RunnerDied(f"{died}; tried {unit.attempt} times" if last else died))
            tell("lease_expired", unit, job)
            if last:
                tx.units.fail(unit, failure)
                self._advance(tx, job)
            elif tx.units.release(unit, error=failure):
                tx.outbox.add([unit.id])
                stop_if_idle(tx, job, self._clock.now())

    def _advance(self, tx: UnitOfWork, job: Job) -> None:
        advance(tx, job, self._pipelines[job.kind], self._clock.now())

    def _mark_failed(self, job_id: str, error: StorageFailure) -> None:
        try:
            with self._transactions() as tx:
                job = tx.jobs.get(job_id, lock=True)
                if job.state not in TERMINAL:
                    now = self._clock.now()
                    tx.jobs.set_state(job_id, JobState.FAILED, error=failure_of(error), finished_at=now)
        except StorageFailure:
            return  # the database is what failed: its last committed state is still true, and resume goes on from it


def _refuse_without(missing: Set[str]) -> None:
    if missing:
        raise Conflict(
            f"the team's retention has deleted what this needs: {', '.join(sorted(missing))}",
            remedy="Audit the model again, with its data and `--fresh` (in the API `fresh`, on the page 'Run again "
            "even if exactly this audit is there already'), and go on from the new audit.",
        )


def _made_by(tx: UnitOfWork, request_id: str | None) -> Job | None:
    """The job that this request made, perhaps in another process that went on with it."""
    if request_id is not None:
        with suppress(NotFound):
            return tx.jobs.get(request_id)
    return None
