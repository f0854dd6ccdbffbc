"""The reaper: what was lost waits again, and whoever could do it hears of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from auditor.service.jobs import Jobs
from auditor.service.ports import Clock, JobQueue
from auditor.service.repositories import Transactions
from auditor.service.scratch import sweep

MOST = 100
"""Wake-ups sent at once; a worker that is woken goes on until nothing waits, so more would only be thrown away."""


@dataclass(frozen=True)
class Reaped:
    """What one round did.

    Attributes:
        put_back: units whose lease had run out.
        announced: wake-ups sent for units that waited unannounced.
        swept: folders removed that killed processes left.
    """

    put_back: int
    announced: int
    swept: int = 0


class Reaper:
    """Looks after what nobody looks after; any number may run at once.

    Args:
        transactions: the database.
        jobs: puts units back and sends the outbox.
        queue: wakes workers.
        clock: the time.
        scratch: folder of units' and submissions' files.
        unit_timeout_s: how long a unit may run at most.
    """

    def __init__(
        self,
        *,
        transactions: Transactions,
        jobs: Jobs,
        queue: JobQueue,
        clock: Clock,
        scratch: Path,
        unit_timeout_s: float,
    ) -> None:
        self._transactions = transactions
        self._jobs = jobs
        self._queue = queue
        self._clock = clock
        self._scratch = scratch
        self._unit_timeout_s = unit_timeout_s

    def reap(self) -> Reaped:
        """One round: put back units whose worker died, send the outbox, and announce units again.

        A broker that restarts forgets its messages, a unit that waits for a later time has none, and a team at its
        limit lets its messages go by. So there are always as many wake-ups under way as units wait, and never more.

        Raises:
            StorageFailure: the database or the broker cannot be reached; the next round does it.
        """
        swept = sweep(self._scratch, older_than_s=2 * self._unit_timeout_s)
        put_back = self._jobs.recover()
        with self._transactions() as tx:
            waiting = tx.queue.waiting(self._clock.now())
        missing = min(MOST, len(waiting)) - self._queue.backlog() if waiting else 0
        for unit in waiting[: max(0, missing)]:
            self._queue.enqueue(unit.unit_id)
        return Reaped(put_back=put_back, announced=max(0, missing), swept=swept)
