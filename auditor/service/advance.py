"""What follows when a unit has ended: the job fails, is done, or gets new units. All in the caller's transaction."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime

from auditor.contracts.jobs import JobState, UnitState
from auditor.errors import AuditorError, RunnerFailure
from auditor.service.failures import failure_of
from auditor.service.pipeline import Pipeline
from auditor.service.records import Job, Unit
from auditor.service.repositories import UnitOfWork
from auditor.service.states import TERMINAL


def advance(tx: UnitOfWork, job: Job, pipeline: Pipeline, now: datetime) -> None:
    """Move the job on. The caller holds its lock, so that units ending together are seen one after the other."""
    if job.state in TERMINAL:
        return
    units = tx.units.of_job(job.id)
    fatal = [unit for unit in units if unit.state is UnitState.FAILED and not pipeline.tolerates(unit.spec.key)]
    if fatal:
        tx.jobs.set_state(job.id, JobState.FAILED, error=fatal[0].error, finished_at=now)
        return
    if any(unit.spec.key == pipeline.final and unit.state is UnitState.DONE for unit in units):
        tx.jobs.set_state(job.id, JobState.DONE, error=None, finished_at=now)
        return
    try:
        new = _add_ready_units(tx, job, pipeline, units)
    except AuditorError as error:
        tx.jobs.set_state(job.id, JobState.FAILED, error=failure_of(error), finished_at=now)
        return
    if not new and not any(unit.state in (UnitState.PENDING, UnitState.RUNNING) for unit in units):
        stuck = RunnerFailure(f"no unit follows, but '{pipeline.final}' has not run")
        tx.jobs.set_state(job.id, JobState.FAILED, error=failure_of(stuck), finished_at=now)


def stop_if_idle(tx: UnitOfWork, job: Job, now: datetime) -> None:
    """A job that was asked to stop has stopped when none of its units runs."""
    if job.cancel_requested and job.state not in TERMINAL:
        units = tx.units.of_job(job.id)
        if not any(unit.state is UnitState.RUNNING for unit in units):
            tx.jobs.set_state(job.id, JobState.CANCELLED, error=None, finished_at=now)


def _add_ready_units(tx: UnitOfWork, job: Job, pipeline: Pipeline, units: Sequence[Unit]) -> Sequence[Unit]:
    """Create the units that may run now and do not exist yet, and note that they are to be announced."""
    done = {unit.spec.key: unit.result for unit in units if unit.result is not None}
    failed = {unit.spec.key: unit.error for unit in units if unit.state is UnitState.FAILED and unit.error}
    known = {unit.spec.key for unit in units}
    try:
        ready = pipeline.next_units(job.payload, done, failed)
    except AuditorError:
        raise
    except Exception as error:  # a defect, or a payload of another version: this job fails, the queue goes on
        raise AuditorError(f"the pipeline raised {type(error).__name__}: {error}") from error
    new = [
        Unit(id=secrets.token_hex(16), job_id=job.id, position=len(units) + offset, spec=spec)
        for offset, spec in enumerate(spec for spec in ready if spec.key not in known)
    ]
    tx.units.add(new)
    tx.outbox.add([unit.id for unit in new])
    return new
