"""Jobs and units as people see them: what is stored, read by the light of the leases and the queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from auditor.contracts.jobs import JobEvent, JobState, JobView, UnitState, UnitView
from auditor.service.places import Place, places
from auditor.service.records import Job, StoredReport, Unit
from auditor.service.repositories import UnitOfWork


@dataclass(frozen=True)
class Line:
    """The queue as it stands: which jobs run under a live lease, which have lost their worker, who waits where."""

    running: frozenset[str] = frozenset()
    stalled: frozenset[str] = frozenset()
    places: Mapping[str, Place] = field(default_factory=dict)

    @classmethod
    def read(cls, tx: UnitOfWork, now: datetime) -> Line:
        """As of now."""
        running = tx.queue.running(now)
        return cls(
            running=frozenset(unit.job_id for unit in running),
            stalled=frozenset(unit.job_id for unit in tx.units.expired(now)),
            places=places(tx.queue.waiting(now), running, tx.queue.served(now), tx.queue.typical_seconds()),
        )


def job_view(job: Job, units: Sequence[Unit], reports: Sequence[StoredReport], line: Line, now: datetime) -> JobView:
    """A job as it is shown at `now`."""
    idle = job.state is JobState.RUNNING and job.id not in line.running
    place = line.places.get(job.id)
    return JobView(
        id=job.id,
        kind=job.kind,
        name=job.name,
        submitter=job.submitter,
        state=JobState.QUEUED if idle else job.state,
        stalled=idle and job.id in line.stalled,
        priority=job.priority,
        queue_position=None if place is None else place.position,
        eta_s=None if place is None else place.eta_s,
        created_at=job.created_at.isoformat(),
        finished_at=None if job.finished_at is None else job.finished_at.isoformat(),
        cancel_requested=job.cancel_requested,
        error=job.error,
        report_ids=tuple(report.report_id for report in reports),
        units=tuple(_unit_view(unit, now) for unit in units),
    )


def _unit_view(unit: Unit, now: datetime) -> UnitView:
    running = unit.state is UnitState.RUNNING
    return UnitView(
        key=unit.spec.key,
        kind=unit.spec.kind,
        state=unit.state,
        attempt=unit.attempt,
        worker=unit.worker,
        stalled=running and unit.lease_until is not None and unit.lease_until < now,
        progress=unit.progress,
        error=unit.error,
        seconds=None if unit.result is None else unit.result.seconds,
    )


def changes(view: JobView, told: dict[str, UnitView]) -> list[JobEvent]:
    """Events for the units that look different from when they were last told; `told` is brought up to date."""
    finished = sum(unit.state in (UnitState.DONE, UnitState.FAILED) for unit in view.units)
    events = []
    for unit in view.units:
        before = told.get(unit.key)
        changed = before is None or before.state is not unit.state or before.progress != unit.progress
        if changed and (before is not None or unit.state is not UnitState.PENDING):
            events.append(
                JobEvent(
                    job_id=view.id,
                    unit_key=unit.key,
                    unit_state=unit.state,
                    message=unit.progress,
                    units_done=finished,
                    units_known=len(view.units),
                )
            )
        told[unit.key] = unit
    return events
