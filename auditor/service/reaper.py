"""The reaper: what was lost waits again, and whoever could do it hears of it."""

from __future__ import annotations

from dataclasses import dataclass

from auditor.service.jobs import Jobs
from auditor.service.ports import Clock, JobQueue, Transactions

MOST = 100
"""Wake-ups sent at once; a worker that is woken goes on until nothing waits, so more would only be thrown away."""


@dataclass(frozen=True)
class Reaped:
    """What one round did.

    Attributes:
        put_back: units whose lease had run out.
        announced: wake-ups sent for units that waited unannounced.
    """

    put_back: int
    announced: int


class Reaper:
    """Looks after what nobody looks after; any number may run at once.

    Args:
        transactions: the database.
        jobs: puts units back and sends the outbox.
        queue: wakes workers.
        clock: the time.
    """

    def __init__(self, *, transactions: Transactions, jobs: Jobs, queue: JobQueue, clock: Clock) -> None:
        self._transactions = transactions
        self._jobs = jobs
        self._queue = queue
        self._clock = clock

    def reap(self) -> Reaped:
        """One round: put back units whose worker died, send the outbox, and announce units again.

        A broker that restarts forgets its messages, a unit that waits for a later time has none, and a team at its
        limit lets its messages go by. So there are always as many wake-ups under way as units wait, and never more.

        Raises:
            StorageFailure: the database or the broker cannot be reached; the next round does it.
        """
        put_back = self._jobs.recover()
        with self._transactions() as tx:
            waiting = tx.queue.waiting(self._clock.now())
        missing = min(MOST, len(waiting)) - self._queue.backlog() if waiting else 0
        for unit in waiting[: max(0, missing)]:
            self._queue.enqueue(unit.unit_id)
        return Reaped(put_back=put_back, announced=max(0, missing))
