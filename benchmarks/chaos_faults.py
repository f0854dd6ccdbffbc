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
from auditor.testing.api import ApiProcess
from auditor.testing.handlers import wait_for
from auditor.testing.process import children_of
from auditor.testing.servers import PostgresServer, RedisServer
from auditor.testing.worker import WorkerProcess
from benchmarks.chaos_submitters import Doing, Submitters

FULL = "disk-full"
"""A file of this name beside the artifacts makes the next write to them fail, and is gone then."""


class FullOnceBlobs(LocalBlobs):
    """The store of the processes under test."""

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
    apis: list[ApiProcess]
    submitters: Submitters
    chance: random.Random

    def running(self) -> dict[str, int]:
        """Units under a live lease, with the number of their try; empty while the database cannot answer."""
        with suppress(StorageFailure), self.transactions() as tx:
            units = [tx.units.get(queued.unit_id) for queued in tx.queue.running(SystemClock().now())]
            return {unit.id: unit.attempt for unit in units}
        return {}


def kill_worker(world: World) -> None:
    """Kill -9 of a whole worker; whoever supervises it starts it again."""
    world.chance.choice(world.workers).kill_and_restart()


def kill_pool_process(world: World) -> None:
    """Kill -9 of the process that holds a claim and a runner."""
    _kill(_busy(world)[0])


def kill_runner(world: World) -> None:
    """Kill -9 of a runner process in the middle of its unit."""
    _kill(_busy(world)[1])


def kill_api(world: World) -> None:
    """Kill -9 of an API process at any moment; whoever supervises it starts it again."""
    world.chance.choice(world.apis).kill_and_restart()


def kill_api_in_upload(world: World) -> None:
    """Kill -9 of the API process to which a model is being uploaded."""
    _during(world, "upload", 0.2, ApiProcess.kill_and_restart)


def kill_api_in_submission(world: World) -> None:
    """Kill -9 of the API process that works on a submission."""
    _during(world, "submission", 1.0, ApiProcess.kill_and_restart)


def restart_redis(world: World) -> None:
    """Redis dies and comes back empty."""
    world.redis.restart()


def restart_postgres(world: World) -> None:
    """PostgreSQL dies in the middle of whatever it does, and recovers."""
    world.postgres.restart()


def restart_postgres_in_submission(world: World) -> None:
    """PostgreSQL dies while an API process works on a submission, and recovers."""
    _during(world, "submission", 1.0, lambda _api: world.postgres.restart())


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
    kill_worker: 7,
    kill_pool_process: 7,
    kill_runner: 8,
    kill_api: 5,
    kill_api_in_upload: 7,
    kill_api_in_submission: 8,
    restart_redis: 6,
    restart_postgres: 5,
    restart_postgres_in_submission: 5,
    fill_disk: 6,
    deliver_twice: 4,
    sleep_through_lease: 4,
}
"""How often each is done in a full run."""


def _during(world: World, what: str, within_s: float, harm: Callable[[ApiProcess], None]) -> None:
    """Do harm while an API process serves such a request, up to `within_s` after it began."""
    world.submitters.ask()
    doing = _begun(world, what)
    time.sleep(world.chance.uniform(0.0, within_s))
    doing = world.submitters.at(what) or doing
    harm(world.apis[doing.server])


def _begun(world: World, what: str) -> Doing:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        doing = world.submitters.at(what)
        if doing is not None:
            return doing
        time.sleep(0.002)
    raise TimeoutError(f"no {what} began")


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
