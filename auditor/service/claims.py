"""Claims: who runs a unit, for how long that is believed, and how often it is tried."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta

from auditor.contracts.jobs import Progress
from auditor.errors import StorageFailure
from auditor.service.ports import Clock
from auditor.service.records import Unit
from auditor.service.repositories import Transactions

MAX_DELAY_S = 300.0


@dataclass(frozen=True)
class ClaimRules:
    """The rules that every claim follows.

    Attributes:
        lease: a claim that was not renewed for this long counts as abandoned.
        heartbeat_s: seconds between renewals.
        max_attempts: a unit whose worker, runner or storage failed this often is failed instead of being tried again.
        retry_delay_s: seconds before the second try; each further one waits twice as long.
        team_units: units of one team that may run at a time; 0: no limit.
    """

    lease: timedelta = timedelta(seconds=60)
    heartbeat_s: float = 5.0
    max_attempts: int = 3
    retry_delay_s: float = 5.0
    team_units: int = 0

    def delay_after(self, attempt: int) -> timedelta:
        """How long a unit waits after its try number `attempt` met a failure that is not its own."""
        return timedelta(seconds=min(MAX_DELAY_S, self.retry_delay_s * 2.0 ** min(attempt - 1, 16)))


def worker_name() -> str:
    """Who claims: machine, process, and a random part, so that a reused process number is not taken for it."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


def never() -> bool:
    """Nobody interrupts."""
    return False


@dataclass
class Heartbeat:
    """Renews a claim while its unit runs, and learns from the database whether to stop.

    Attributes:
        interrupted: whether this worker is to stop; asked at every poll.
        cancelled: the job is to stop.
        lost: another worker may have the unit by now.
    """

    transactions: Transactions
    clock: Clock
    unit: Unit
    rules: ClaimRules
    interrupted: Callable[[], bool] = never
    progress: Progress | None = None
    cancelled: bool = False
    lost: bool = False
    _next: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._next = time.monotonic() + self.rules.heartbeat_s

    def should_stop(self) -> bool:
        """Polled by the runner; touches the database only every few seconds."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self.rules.heartbeat_s
            now = self.clock.now()
            with suppress(StorageFailure), self.transactions() as tx:  # a database that restarts costs no hour of work
                self.cancelled = tx.jobs.get(self.unit.job_id).cancel_requested
                until = now + self.rules.lease
                self.lost = not tx.units.renew(self.unit, now=now, lease_until=until, progress=self.progress)
        return self.cancelled or self.lost or self.interrupted()
