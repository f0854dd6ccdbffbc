"""The queue port in memory."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from statistics import median
from typing import Any

from auditor.contracts.jobs import UnitState
from auditor.service.places import claim_order
from auditor.service.records import Job, QueuedUnit, Statistics, Unit
from auditor.service.states import LIVE, REMEMBERED
from auditor.testing.tables import Tables


class InMemoryUnitQueue:
    """The queue in memory: the first in `claim_order`, so its order and that of SQL hold each other to the rules."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def claim_next(self, *, worker: str, now: datetime, lease_until: datetime, team_units: int) -> Unit | None:
        """Take the unit whose turn it is."""
        running = self.running(now)
        held = Counter(unit.team_id for unit in running)
        waiting = [unit for unit in self.waiting(now) if not team_units or held[unit.team_id] < team_units]
        if not waiting:
            return None
        unit = self._tables.units[claim_order(waiting, running, self.served(now))[0].unit_id]
        self._tables.units[unit.id] = replace(unit, **claimed(unit, worker=worker, now=now, until=lease_until))
        return self._tables.units[unit.id]

    def waiting(self, now: datetime) -> Sequence[QueuedUnit]:
        """Units that wait for a worker."""
        return [
            self._queued(unit, job)
            for unit, job in self._pairs()
            if unit.state is UnitState.PENDING
            and (unit.lease_until is None or unit.lease_until <= now)
            and job.state in LIVE
            and not job.cancel_requested
        ]

    def running(self, now: datetime) -> Sequence[QueuedUnit]:
        """Units under a live lease."""
        return [self._queued(unit, job) for unit, job in self._pairs() if _under_lease(unit, now)]

    def served(self, now: datetime) -> Mapping[str, datetime]:
        """When each team was last served."""
        found: dict[str, datetime] = {}
        for unit, job in self._pairs():
            recent = job.state in LIVE or (job.finished_at is not None and job.finished_at >= now - REMEMBERED)
            if unit.heartbeat_at is not None and recent:
                found[job.team_id] = max(unit.heartbeat_at, found.get(job.team_id, unit.heartbeat_at))
        return found

    def typical_seconds(self) -> Mapping[str, float]:
        """Medians over the finished units."""
        found: dict[str, list[float]] = defaultdict(list)
        for unit in self._tables.units.values():
            if unit.result is not None:
                found[unit.spec.kind].append(unit.result.seconds)
        return {kind: median(values) for kind, values in found.items()}

    def statistics(self, now: datetime) -> Statistics:
        """Counts of everything."""
        units = self._tables.units.values()
        seconds: dict[str, float] = defaultdict(float)
        for unit in units:
            if unit.result is not None:
                seconds[unit.spec.kind] += unit.result.seconds
        waiting = {unit.created_at for unit in self.waiting(now)}
        return Statistics(
            jobs=_count((job.kind.value, job.state.value, job.team_id) for job in self._tables.jobs.values()),
            jobs_running=len({unit.job_id for unit in self.running(now)}),
            units=_count((unit.spec.kind, unit.state.value) for unit in units),
            units_stalled=sum(unit.state is UnitState.RUNNING and not _under_lease(unit, now) for unit in units),
            unit_seconds=dict(seconds),
            units_redone=sum(max(0, unit.attempt - 1) for unit in units),
            oldest_waiting=min(waiting, default=None),
            outbox=len(self._tables.outbox),
            reports=_count(
                (row.kind.value, row.as_told.verdict or "") for row in self._tables.reports.values() if row.is_of_job
            ),
        )

    def _pairs(self) -> list[tuple[Unit, Job]]:
        return [(unit, self._tables.jobs[unit.job_id]) for unit in self._tables.units.values()]

    def _queued(self, unit: Unit, job: Job) -> QueuedUnit:
        return QueuedUnit(unit.id, job.id, job.team_id, unit.spec.kind, job.priority, job.created_at, unit.position)


def _count(rows: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], int]:
    return dict(Counter(rows))


def _under_lease(unit: Unit, now: datetime) -> bool:
    return unit.state is UnitState.RUNNING and unit.lease_until is not None and unit.lease_until >= now


def claimed(unit: Unit, *, worker: str, now: datetime, until: datetime) -> dict[str, Any]:
    """The fields of a unit that is claimed now."""
    claim = {"worker": worker, "lease_until": until, "heartbeat_at": now, "attempt": unit.attempt + 1}
    return {"state": UnitState.RUNNING, "progress": None, "error": None, **claim}
