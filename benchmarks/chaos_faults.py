"""The faults of `benchmarks.chaos`: each does one bad thing to a running installation and returns when it is done."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from auditor.adapters.blobs import Readable
from auditor.adapters.celery_queue import CeleryQueue
from auditor.adapters.clock import SystemClock
from auditor.adapters.local_blobs import LocalBlobs
from auditor.db.unit_of_work import SqlTransactions
from auditor.errors import StorageFailure
from auditor.settings import Settings
from auditor.testing.handlers import wait_for
from auditor.testing.servers import PostgresServer, RedisServer
from auditor.testing.worker import WorkerProcess, children_of

FULL = "disk-full"
"""A file of this name beside the artifacts makes the next write to them fail, and is gone then."""


class FullOnceBlobs(LocalBlobs):
    """The store of the workers under test."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._flag = root.parent / FULL

    def write(self, name: str, source: Readable) -> None:
        """Store, or find the disk full."""
        with suppress(FileNotFoundError):
            self._flag.unlink()
            raise StorageFailure("an artifact could not be stored: No space left on device")
        super().write(name, source)


@dataclass
class World:
    """What can be harmed.

    Attributes:
        chance: seeded; decides who is hit.
    """

    settings: Settings
    transactions: SqlTransactions
    queue: CeleryQueue
    postgres: PostgresServer
    redis: RedisServer
    workers: list[WorkerProcess]
    chance: random.Random

    def running(self) -> dict[str, int]:
        """Units under a live lease, with the number of their try; empty while the database cannot answer."""
        with suppress(StorageFailure), self.transactions() as tx:
            units = [tx.units.get(queued.unit_id) for queued in tx.queue.running(SystemClock().now())]
            return {unit.id: unit.attempt for unit in units}
        return {}


def kill_worker(world: World) -> None:
    """Kill -9 of a whole worker; whoever supervises it starts it again."""
    worker = world.chance.choice(world.workers)
    worker.signal(signal.SIGKILL)
    wait_for(lambda: not worker.alive)
    worker.start()


def kill_pool_process(world: World) -> None:
    """Kill -9 of the process that holds a claim and a runner."""
    _kill(_busy(world)[0])


def kill_runner(world: World) -> None:
    """Kill -9 of a runner process in the middle of its unit."""
    _kill(_busy(world)[1])


def restart_redis(world: World) -> None:
    """Redis dies and comes back empty."""
    world.redis.restart()


def restart_postgres(world: World) -> None:
    """PostgreSQL dies in the middle of whatever it does, and recovers."""
    world.postgres.restart()


def fill_disk(world: World) -> None:
    """The next artifact finds no space."""
    flag = world.settings.home / FULL
    flag.write_text("")
    wait_for(lambda: not flag.exists())


def deliver_twice(world: World) -> None:
    """Every running unit is announced again, three times."""
    for unit_id in [*world.running()] * 3:
        world.queue.enqueue(unit_id)


def sleep_through_lease(world: World) -> None:
    """A process stops until another one has its unit, and then goes on as if nothing had happened."""
    pid, _runner = _busy(world)
    held = world.running()
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_for(lambda: any(world.running().get(unit, attempt) != attempt for unit, attempt in held.items()))
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


FAULTS: Mapping[Callable[[World], None], int] = {
    kill_worker: 10,
    kill_pool_process: 10,
    kill_runner: 12,
    restart_redis: 7,
    restart_postgres: 7,
    fill_disk: 7,
    deliver_twice: 6,
    sleep_through_lease: 6,
}
"""How often each is done in a full run."""


def _busy(world: World) -> tuple[int, int]:
    """A pool process that computes, and its runner process."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        pairs = [(pid, child) for worker in world.workers for pid in worker.pool() for child in children_of(pid)]
        if pairs:
            return world.chance.choice(sorted(pairs))
        time.sleep(0.02)
    raise TimeoutError("no worker computed anything")


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):  # it ended in this moment, which is a moment like any other
        os.kill(pid, signal.SIGKILL)
