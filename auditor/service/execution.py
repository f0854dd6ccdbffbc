"""Running one unit: claim it, compute in the runner, store; in one transaction mark it done and create what follows."""

from __future__ import annotations

import os
import secrets
import socket
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
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
from auditor.errors import AuditorError, Cancelled, RunnerFailure, StorageFailure
from auditor.service.failures import failure_of
from auditor.service.pipeline import Pipeline
from auditor.service.ports import ArtifactStore, Clock, JobQueue, Transactions, UnitOfWork, UnitRunner
from auditor.service.records import Job, StoredReport, Unit
from auditor.service.reports import reports_left_by

LEASE = timedelta(seconds=60)
"""A claim that was not renewed for this long counts as abandoned."""
HEARTBEAT_S = 5.0
MAX_ATTEMPTS = 3
"""A unit whose worker died this often is failed instead of being tried again."""

OnEvent = Callable[[JobEvent], None]
TERMINAL = frozenset({JobState.DONE, JobState.FAILED, JobState.CANCELLED})


def worker_name() -> str:
    """Who claims: machine, process, and a random part, so that a reused process number is not taken for it."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


def ignore(_event: JobEvent) -> None:
    """Nobody follows."""


@dataclass
class _Heartbeat:
    """Renews a claim while its unit runs, and learns from the database whether to stop."""

    transactions: Transactions
    clock: Clock
    unit: Unit
    progress: Progress | None = None
    cancelled: bool = False
    lost: bool = False
    _next: float = field(default_factory=lambda: time.monotonic() + HEARTBEAT_S)

    def should_stop(self) -> bool:
        """Polled by the runner; touches the database only every few seconds."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + HEARTBEAT_S
            now = self.clock.now()
            with suppress(StorageFailure), self.transactions() as tx:  # a database that restarts costs no hour of work
                self.cancelled = tx.jobs.get(self.unit.job_id).cancel_requested
                self.lost = not tx.units.renew(self.unit, now=now, lease_until=now + LEASE, progress=self.progress)
        return self.cancelled or self.lost


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
    ) -> None:
        self._store = store
        self._transactions = transactions
        self._queue = queue
        self._runner = runner
        self._clock = clock
        self._pipelines = pipelines
        self._scratch = scratch

    def execute_unit(self, unit_id: str, on_event: OnEvent = ignore) -> bool:
        """Run a unit, if it still waits; a second delivery of the same id does nothing.

        Returns:
            Whether this call ran the unit.

        Raises:
            Cancelled: the job was cancelled meanwhile; the unit waits again.
            StorageFailure: the database or the store failed; the unit waits again, at the latest when its lease ends.
        """
        unit = self._claim(unit_id)
        if unit is None:
            self.announce()  # the first delivery may have died between its commit and this
            return False
        try:
            self._tell(unit, UnitState.RUNNING, None, on_event)
            self._compute_and_settle(unit, on_event)
        except BaseException:
            with suppress(StorageFailure):  # a claim that cannot be given back ends with its lease
                self._release(unit)
            raise
        self.announce()
        return True

    def compute(
        self,
        unit: UnitSpec,
        *,
        on_message: Callable[[RunnerMessage], None],
        should_stop: Callable[[], bool],
        files: Mapping[str, bytes] | None = None,
    ) -> UnitResult:
        """Run a unit in the runner and store what it leaves; the database is not touched.

        Args:
            unit: what to do; its inputs are taken from the store.
            on_message: receives progress and log messages.
            should_stop: polled.
            files: further inputs, not from the store.
        """
        with _workspace(self._scratch) as folder:
            root = Path(folder)
            for name, digest in unit.inputs.items():
                self._store.get_path(digest, _inside(root / "inputs", name))
            for name, data in (files or {}).items():
                path = _inside(root / "inputs", name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            finished = self._runner.run(unit, root, on_message=on_message, should_stop=should_stop)
            outputs = {name: self._store.put_file(_inside(root / "outputs", name)) for name in finished.outputs}
        return UnitResult(
            value=finished.value,
            outputs=outputs,
            seconds=finished.seconds,
            peak_memory_bytes=finished.peak_memory_bytes,
        )

    def announce(self) -> None:
        """Send what the outbox holds; what cannot be sent stays there for the next time."""
        with self._transactions() as tx:
            for entry, unit_id in tx.outbox.pending():
                self._queue.enqueue(unit_id)
                tx.outbox.remove(entry)

    def _claim(self, unit_id: str) -> Unit | None:
        now = self._clock.now()
        with self._transactions() as tx:
            found = tx.units.get(unit_id)
            job = tx.jobs.get(found.job_id, lock=True)
            if job.state in TERMINAL or job.cancel_requested:
                return None
            unit = tx.units.claim(unit_id, worker=worker_name(), now=now, lease_until=now + LEASE)
            if unit is not None and job.state is not JobState.RUNNING:
                tx.jobs.set_state(job.id, JobState.RUNNING, error=None, finished_at=None)
            return unit

    def _compute_and_settle(self, unit: Unit, on_event: OnEvent) -> None:
        heartbeat = _Heartbeat(self._transactions, self._clock, unit)

        def on_message(message: RunnerMessage) -> None:
            if isinstance(message, Progress):
                heartbeat.progress = message
            if isinstance(message, Progress | Log):
                self._tell(unit, UnitState.RUNNING, message, on_event)

        try:
            result = self.compute(unit.spec, on_message=on_message, should_stop=heartbeat.should_stop)
            reports = reports_left_by(unit, result, self._store, self._clock.now())
        except (Cancelled, StorageFailure):
            if heartbeat.lost:
                return
            raise
        except AuditorError as error:
            self._settle(unit, failure_of(error), (), on_event)
        else:
            self._settle(unit, result, reports, on_event)

    def _settle(
        self, unit: Unit, outcome: UnitResult | Failed, reports: Sequence[StoredReport], on_event: OnEvent
    ) -> None:
        """One transaction: the unit's end, its reports, the job's new state and the units that follow."""
        with self._transactions() as tx:
            job = tx.jobs.get(unit.job_id, lock=True)
            good = isinstance(outcome, UnitResult)
            held = tx.units.complete(unit, outcome) if isinstance(outcome, UnitResult) else tx.units.fail(unit, outcome)
            if not held:
                return
            for report in reports:
                tx.reports.add(replace(report, name=job.name))
            self.advance(tx, job)
        self._tell(unit, UnitState.DONE if good else UnitState.FAILED, None, on_event)

    def advance(self, tx: UnitOfWork, job: Job) -> None:
        """Move the job on after a unit ended: failed, done, or with new units. The caller holds the job's lock."""
        if job.state in TERMINAL:
            return
        units = tx.units.of_job(job.id)
        pipeline, now = self._pipelines[job.kind], self._clock.now()
        fatal = [unit for unit in units if unit.state is UnitState.FAILED and not pipeline.tolerates(unit.spec.key)]
        if fatal:
            tx.jobs.set_state(job.id, JobState.FAILED, error=fatal[0].error, finished_at=now)
            return
        if any(unit.spec.key == pipeline.final and unit.state is UnitState.DONE for unit in units):
            tx.jobs.set_state(job.id, JobState.DONE, error=None, finished_at=now)
            return
        try:
            new = self._add_ready_units(tx, job, units)
        except AuditorError as error:
            tx.jobs.set_state(job.id, JobState.FAILED, error=failure_of(error), finished_at=now)
            return
        if not new and not any(unit.state in (UnitState.PENDING, UnitState.RUNNING) for unit in units):
            stuck = RunnerFailure(f"no unit follows, but '{pipeline.final}' has not run")
            tx.jobs.set_state(job.id, JobState.FAILED, error=failure_of(stuck), finished_at=now)

    def _add_ready_units(self, tx: UnitOfWork, job: Job, units: Sequence[Unit]) -> Sequence[Unit]:
        """Create the units that may run now and do not exist yet, and note that they are to be announced."""
        done = {unit.spec.key: unit.result for unit in units if unit.result is not None}
        failed = {unit.spec.key: unit.error for unit in units if unit.state is UnitState.FAILED and unit.error}
        known = {unit.spec.key for unit in units}
        ready = self._pipelines[job.kind].next_units(job.payload, done, failed)
        new = [
            Unit(id=secrets.token_hex(16), job_id=job.id, position=len(units) + offset, spec=spec)
            for offset, spec in enumerate(spec for spec in ready if spec.key not in known)
        ]
        tx.units.add(new)
        tx.outbox.add([unit.id for unit in new])
        return new

    def _release(self, unit: Unit) -> None:
        """Give the claim back, so that the unit can run again at once; a job to be cancelled stops with it."""
        with self._transactions() as tx:
            job = tx.jobs.get(unit.job_id, lock=True)
            if tx.units.release(unit):
                stop_if_idle(tx, job, self._clock.now())

    def _tell(self, unit: Unit, state: UnitState, message: Progress | Log | None, on_event: OnEvent) -> None:
        if on_event is ignore:
            return
        event = JobEvent(job_id=unit.job_id, unit_key=unit.spec.key, unit_state=state, message=message)
        if message is None:
            with self._transactions() as tx:
                units = tx.units.of_job(unit.job_id)
            finished = sum(other.state in (UnitState.DONE, UnitState.FAILED) for other in units)
            event = event.model_copy(update={"units_done": finished, "units_known": len(units)})
        on_event(event)


def stop_if_idle(tx: UnitOfWork, job: Job, now: datetime) -> None:
    """A job that was asked to stop has stopped when none of its units runs."""
    if job.cancel_requested and job.state not in TERMINAL:
        units = tx.units.of_job(job.id)
        if not any(unit.state is UnitState.RUNNING for unit in units):
            tx.jobs.set_state(job.id, JobState.CANCELLED, error=None, finished_at=now)


def _workspace(scratch: Path) -> tempfile.TemporaryDirectory[str]:
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(dir=scratch, prefix="unit-")
    except OSError as error:
        raise StorageFailure(f"no folder for the unit's files could be made: {error.strerror}") from error


def _inside(folder: Path, name: str) -> Path:
    """`folder / name`, where `name` is a plain file name: a child cannot make the parent read or write elsewhere."""
    if not name or name in (".", "..") or Path(name).name != name:
        raise RunnerFailure(f"'{name[:80]}' is not a plain file name")
    path = folder / name
    if path.is_symlink():
        raise RunnerFailure(f"the unit left a link, '{name}', instead of a file")
    return path
