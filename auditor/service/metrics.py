"""What the service does, in numbers, read from the database when somebody asks: no process keeps its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from auditor.service.ports import Clock
from auditor.service.records import QueuedUnit, Statistics
from auditor.service.repositories import Transactions


@dataclass(frozen=True)
class Metric:
    """One metric with all its samples.

    Attributes:
        name: without the unit's suffix that a format may add.
        labels: names of what its samples differ in.
        samples: by the labels' values.
    """

    name: str
    kind: Literal["gauge", "counter"]
    meaning: str
    labels: tuple[str, ...]
    samples: Mapping[tuple[str, ...], float]


class Metrics:
    """Reads the metrics.

    Args:
        transactions: the database.
        clock: the time.
    """

    def __init__(self, *, transactions: Transactions, clock: Clock) -> None:
        self._transactions = transactions
        self._clock = clock

    def read(self) -> tuple[Metric, ...]:
        """As of now; raises StorageFailure when the database cannot be used."""
        now = self._clock.now()
        with self._transactions() as tx:
            waiting, running = tx.queue.waiting(now), tx.queue.running(now)
            counts = tx.queue.statistics(now)
        return (*_of_jobs(counts), *_of_units(counts), *_of_the_queue(waiting, running, counts, now))


def _of_jobs(counts: Statistics) -> tuple[Metric, ...]:
    return (
        Metric("auditor_jobs", "gauge", "Stored jobs, by stored state.", ("kind", "state", "team"), counts.jobs),
        _single("auditor_jobs_running", "Jobs with a unit under a live lease.", counts.jobs_running),
        Metric(
            "auditor_reports", "gauge", "Reports that jobs were for, by verdict.", ("kind", "verdict"), counts.reports
        ),
    )


def _of_units(counts: Statistics) -> tuple[Metric, ...]:
    seconds: Mapping[tuple[str, ...], float] = {(kind,): value for kind, value in counts.unit_seconds.items()}
    redone: Mapping[tuple[str, ...], float] = {(): counts.units_redone}
    return (
        Metric("auditor_units", "gauge", "Units, by state.", ("kind", "state"), counts.units),
        _single("auditor_units_stalled", "Units whose lease ran out, not put back yet.", counts.units_stalled),
        Metric("auditor_unit_seconds", "counter", "Computing time of finished units.", ("kind",), seconds),
        Metric("auditor_units_redone", "counter", "Tries of units beyond the first.", (), redone),
    )


def _of_the_queue(
    waiting: Sequence[QueuedUnit], running: Sequence[QueuedUnit], counts: Statistics, now: datetime
) -> tuple[Metric, ...]:
    oldest = counts.oldest_waiting
    age = 0.0 if oldest is None else (now - oldest).total_seconds()
    return (
        Metric("auditor_queue_waiting", "gauge", "Units that wait for a worker.", ("team",), _by_team(waiting)),
        Metric("auditor_queue_running", "gauge", "Units under a live lease.", ("team",), _by_team(running)),
        _single("auditor_queue_oldest_seconds", "Age of the oldest job that waits for a worker.", age),
        _single("auditor_outbox", "Units not yet announced to the broker.", counts.outbox),
    )


def _single(name: str, meaning: str, value: float) -> Metric:
    return Metric(name, "gauge", meaning, (), {(): value})


def _by_team(units: Sequence[QueuedUnit]) -> dict[tuple[str, ...], float]:
    return {(team_id,): count for team_id, count in Counter(unit.team_id for unit in units).items()}
