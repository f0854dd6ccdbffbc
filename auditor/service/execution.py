"""Running one unit: claim it, compute in the runner, store; in one transaction mark it done and create what follows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

from auditor.contracts.jobs import (
    Failed,
    JobEvent,
    JobKind,
    JobState,
    Log,
    Progress,
    RunnerMessage,
    UnitResult,
    UnitSpec,
    UnitState,
)
from auditor.errors import AuditorError, Cancelled, RunnerDied, StorageFailure
from auditor.service.advance import advance, stop_if_idle
from auditor.service.claims import ClaimRules, Heartbeat, never, worker_name
from auditor.service.copying import Copying
from auditor.service.failures import failure_of
from auditor.service.journal import tell
from auditor.service.pipeline import Pipeline
from auditor.service.ports import ArtifactStore, Clock, JobQueue, UnitRunner
from auditor.service.records import Job, StoredReport, Unit
from auditor.service.reports import reports_left_by
from auditor.service.repositories import Transactions, UnitOfWork
from auditor.service.scratch import inside, unit_folder
from auditor.service.states import LIVE

OnEvent = Callable[[JobEvent], None]


def ignore(_event: JobEvent) -> None:
    """Nobody follows."""


class Executor:
    """Executes units.

    Args:
        store: artifacts.
        transactions: the database.
        queue: where follow-up units are announced.
        runner: runs a unit in its own process.
        clock: the time.
        pipelines: how each kind of job runs.
        scratch: folder for the units' workspaces.
        rules: leases, tries and shares.
    """

    def __init__(
        self,
        *,
        store: ArtifactStore,
        transactions: Transactions,
        queue: JobQueue,
        runner: UnitRunner,
        clock: Clock,
        pipelines: Mapping[JobKind, Pipeline],
        scratch: Path,
        rules: ClaimRules | None = None,
    ) -> None:
        self._store = store
        self._transactions = transactions
        self._queue = queue
        self._runner = runner
        self._clock = clock
        self._pipelines = pipelines
        self._scratch = scratch
        self.rules = rules or ClaimRules()

    def execute_unit(self, unit_id: str, on_event: OnEvent = ignore) -> bool:
        """Run this unit, if it still waits; called again for the same id it does nothing.

        Returns:
            Whether this call ran the unit.

        Raises:
            Cancelled: the job was cancelled meanwhile; the unit waits again.
            StorageFailure: the database or the store failed; the unit waits again, at the latest when its lease ends.
        """
        now = self._clock.now()
        with self._transactions() as tx:
            job = tx.jobs.get(tx.units.get(unit_id).job_id, lock=True)
            until = now + self.rules.lease
            unit = tx.units.claim(unit_id, worker=worker_name(), now=now, lease_until=until) if _goes_on(job) else None
            if unit is not None:
                self._begin(tx, unit, job)
        if unit is not None:
            self._run(unit, on_event, never)
        self.announce()  # also what an earlier call could not: it may have died between its commit and this
        return unit is not None

    def execute_next(self, *, interrupted: Callable[[], bool] = never) -> bool:
        """Run the waiting unit whose turn it is, of any job: see the Queue port for the order.

        Args:
            interrupted: polled; True stops the unit's process and gives the unit back.

        Returns:
            Whether there was one.

        Raises:
            Cancelled: the job was cancelled or this worker interrupted; the unit waits again.
            StorageFailure: the database or the store failed; the unit waits again, at the latest when its lease ends.
        """
        unit = self._claim_next()
        if unit is None:
            return False
        self._run(unit, ignore, interrupted)
        with suppress(StorageFailure):  # what cannot be announced stays in the outbox, and the reaper sends it
            self.announce()
        return True

    def compute(
        self,
        unit: UnitSpec,
        *,
        team_id: str,
        on_message: Callable[[RunnerMessage], None],
        should_stop: Callable[[], bool],
        files: Mapping[str, bytes] | None = None,
        patience: timedelta = timedelta(0),
    ) -> UnitResult:
        """Run a unit in the runner and store what it leaves; the database is not touched.

        Args:
            unit: what to do; its inputs are taken from the store.
            team_id: whose it is.
            on_message: receives progress and log messages.
            should_stop: polled, also while files are copied.
            files: further inputs, not from the store.
            patience: how long a store that is away is waited for.
        """
        copied = Copying(self._clock, should_stop, patience)
        with unit_folder(self._scratch) as folder:
            root = Path(folder)
            for name, digest in unit.inputs.items():
                copied(partial(self._store.get_path, digest, inside(root / "inputs", name)))
            for name, data in (files or {}).items():
                path = inside(root / "inputs", name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            finished = self._runner.run(unit, root, team_id=team_id, on_message=on_message, should_stop=should_stop)
            outputs = {}
            for name in finished.outputs:
                outputs[name] = copied(partial(self._store.put_file, inside(root / "outputs", name)))
        return UnitResult(
            value=finished.value,
            outputs=outputs,
            seconds=finished.seconds,
            peak_memory_bytes=finished.peak_memory_bytes,
        )

    def has_stored(self, digest: str) -> bool:
        """Whether units can still be given this artifact."""
        return self._store.exists(digest)

    def announce(self) -> None:
        """Send what the outbox holds; what cannot be sent stays there for the next time."""
        with self._transactions() as tx:
            for entry, unit_id in tx.outbox.pending():
                self._queue.enqueue(unit_id)
                tx.outbox.remove(entry)

    def _claim_next(self) -> Unit | None:
        now, worker, shares = self._clock.now(), worker_name(), self.rules.team_units
        until = now + self.rules.lease
        with self._transactions() as tx:
            while True:
                unit = tx.queue.claim_next(worker=worker, now=now, lease_until=until, team_units=shares)
                if unit is None:
                    return None
                job = tx.jobs.get(unit.job_id, lock=True)
                if _goes_on(job):
                    self._begin(tx, unit, job)
                    return unit
                tx.units.release(unit)  # it was stopped between the choice and the lock

    def _begin(self, tx: UnitOfWork, unit: Unit, job: Job) -> None:
        if job.state is not JobState.RUNNING:
            tx.jobs.set_state(job.id, JobState.RUNNING, error=None, finished_at=None)
        tell("unit_claimed", unit, job)

    def _run(self, unit: Unit, on_event: OnEvent, interrupted: Callable[[], bool]) -> None:
        """Compute a claimed unit and settle it; whatever happens, the claim is settled or given back."""
        heartbeat = Heartbeat(self._transactions, self._clock, unit, self.rules, interrupted)
        try:
            self._show(unit, UnitState.RUNNING, None, on_event)
            outcome, reports = self._outcome(unit, heartbeat, on_event)
            self._settle_surely(unit, outcome, reports, on_event)
        except (Cancelled, RunnerDied, StorageFailure) as error:
            if heartbeat.lost:
                tell("claim_lost", unit)
                return
            self._give_back(unit, error, on_event)
            if not isinstance(error, RunnerDied):
                raise
        except BaseException as error:
            self._give_back(unit, error, on_event)
            raise

    def _outcome(
        self, unit: Unit, heartbeat: Heartbeat, on_event: OnEvent
    ) -> tuple[UnitResult | Failed, tuple[StoredReport, ...]]:
        """The unit's result with its reports, or its own failure; what is nobody's fault is raised."""

        def on_message(message: RunnerMessage) -> None:
            if isinstance(message, Progress):
                heartbeat.progress = message
            if isinstance(message, Progress | Log):
                self._show(unit, UnitState.RUNNING, message, on_event)

        with self._transactions() as tx:
            team_id = tx.jobs.get(unit.job_id).team_id
        try:
            result = self.compute(
                unit.spec,
                team_id=team_id,
                on_message=on_message,
                should_stop=heartbeat.should_stop,
                patience=self.rules.lease,
            )
            copied = Copying(self._clock, heartbeat.should_stop, self.rules.lease)
            return result, copied(partial(reports_left_by, unit, result, self._store, self._clock.now()))
        except (Cancelled, RunnerDied, StorageFailure):
            raise
        except AuditorError as error:
            return failure_of(error), ()

    def _settle_surely(
        self, unit: Unit, outcome: UnitResult | Failed, reports: Sequence[StoredReport], on_event: OnEvent
    ) -> None:
        """Settle, trying for as long as a lease: a database that restarts must not cost the work that is done."""
        give_up = self._clock.now() + self.rules.lease
        while True:
            try:
                return self._settle(unit, outcome, reports, on_event)
            except StorageFailure:
                if self._clock.now() >= give_up:
                    raise
                self._clock.sleep(self.rules.heartbeat_s)

    def _settle(
        self, unit: Unit, outcome: UnitResult | Failed, reports: Sequence[StoredReport], on_event: OnEvent
    ) -> None:
        """One transaction: the unit's end, its reports, the job's new state and the units that follow."""
        with self._transactions() as tx:
            job = tx.jobs.get(unit.job_id, lock=True)
            good = isinstance(outcome, UnitResult)
            held = tx.units.complete(unit, outcome) if isinstance(outcome, UnitResult) else tx.units.fail(unit, outcome)
            if not held:
                tell("claim_lost", unit, job)
                return
            for report in reports:
                tx.reports.add(replace(report, name=job.name))
            advance(tx, job, self._pipelines[job.kind], self._clock.now())
            stop_if_idle(tx, tx.jobs.get(job.id), self._clock.now())
        if isinstance(outcome, UnitResult):
            tell("unit_done", unit, job, seconds=outcome.seconds)
        else:
            tell("unit_failed", unit, job, code=outcome.code)
        self._show(unit, UnitState.DONE if good else UnitState.FAILED, None, on_event)

    def _give_back(self, unit: Unit, error: BaseException, on_event: OnEvent) -> None:
        """Let the unit wait again, and say why; what was tried often enough fails with its reason instead.

        A claim that cannot be given back, because the database cannot be reached, ends with its lease. The error
        that goes on has a note which unit it stopped.
        """
        error.add_note(f"unit '{unit.spec.key}' of job {unit.job_id}")
        failure = None if isinstance(error, Cancelled) or not isinstance(error, Exception) else _failure_of(error)
        with suppress(StorageFailure):
            if failure is not None and unit.attempt >= self.rules.max_attempts:
                tried = f"tried {unit.attempt} times"
                self._settle(unit, failure.model_copy(update={"problems": (*failure.problems, tried)}), (), on_event)
                return
            now = self._clock.now()
            later = None if failure is None else now + self.rules.delay_after(unit.attempt)
            with self._transactions() as tx:
                job = tx.jobs.get(unit.job_id, lock=True)
                if tx.units.release(unit, error=failure, not_before=later):
                    stop_if_idle(tx, job, now)
                    tell("unit_given_back", unit, job, code="" if failure is None else failure.code)

    def _show(self, unit: Unit, state: UnitState, message: Progress | Log | None, on_event: OnEvent) -> None:
        if on_event is ignore:
            return
        event = JobEvent(job_id=unit.job_id, unit_key=unit.spec.key, unit_state=state, message=message)
        if message is None:
            with self._transactions() as tx:
                units = tx.units.of_job(unit.job_id)
            finished = sum(other.state in (UnitState.DONE, UnitState.FAILED) for other in units)
            event = event.model_copy(update={"units_done": finished, "units_known": len(units)})
        on_event(event)


def _failure_of(error: Exception) -> Failed:
    """What is no AuditorError is a defect."""
    return failure_of(error if isinstance(error, AuditorError) else AuditorError(f"{type(error).__name__}: {error}"))


def _goes_on(job: Job) -> bool:
    return job.state in LIVE and not job.cancel_requested
