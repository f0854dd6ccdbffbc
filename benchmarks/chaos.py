"""One run with faults on real PostgreSQL, Redis, Celery workers and runner processes: is anything lost or doubled?

    python -m benchmarks.chaos [--share 0.2] [--seed 0] [--out TALLY.md]

Two workers with one process each run small audits whose attacks take a second and a half. Faults come one after the
other at random moments; after each, every unit that was running must have ended or have been taken again, and how many
were started again because of it is counted. At the end every job has to be done, with every unit done and one report.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from auditor.adapters.celery_queue import CeleryQueue
from auditor.adapters.clock import SystemClock
from auditor.bootstrap import Services, build_services, build_store, migrate
from auditor.contracts.jobs import JobState, UnitState
from auditor.contracts.manifest import Manifest
from auditor.contracts.policy import Policy
from auditor.db.engine import build_engine
from auditor.db.unit_of_work import SqlTransactions
from auditor.errors import StorageFailure
from auditor.service.audits import SubmitRequest
from auditor.service.states import LIVE, TERMINAL
from auditor.settings import Settings
from auditor.testing.servers import NoServer, PostgresServer, RedisServer, postgres_binaries, redis_binary
from auditor.testing.worker import WorkerProcess
from benchmarks.chaos_faults import FAULTS, World

HANDLERS = "auditor.testing.handlers:fast_handlers"
SETTLE_S = 60.0
"""Within this time everything that a fault hit must be under way again."""
_WORKER = """
import sys
import auditor.bootstrap
from auditor.settings import Settings
from benchmarks.chaos_faults import FullOnceBlobs
from workers.lifecycle import run_worker
auditor.bootstrap.LocalBlobs = FullOnceBlobs
sys.exit(run_worker(Settings(), {concurrency}, gpus={gpus!r}, drain_timeout_s={drain_timeout_s}, handlers={handlers!r}))
"""


@dataclass
class Tally:
    """What the run did and found.

    Attributes:
        injected: faults, by name.
        redone: units started again, by the fault that hit them.
        worst: most units that one fault made start again.
    """

    injected: Counter[str] = field(default_factory=Counter)
    redone: Counter[str] = field(default_factory=Counter)
    worst: Counter[str] = field(default_factory=Counter)
    jobs: int = 0
    lost: int = 0
    doubled: int = 0
    units: int = 0
    redone_units: int = 0
    most_tries: int = 0
    left_over: int = 0
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Nothing lost, nothing doubled, no fault that cost more than one chunk, no try that no fault explains."""
        explained = self.redone_units == self.redone.total() and max(self.worst.values(), default=0) <= 1
        return explained and not (self.lost or self.doubled or self.left_over)

    def markdown(self) -> str:
        """The tables for the results page."""
        names = {fault.__name__: (fault.__doc__ or "").splitlines()[0] for fault in FAULTS}
        rows = [
            f"| {names[name]} | {count} | {self.redone[name]} | {self.worst[name]} |"
            for name, count in self.injected.items()
        ]
        return "\n".join(
            [
                "| fault | times | chunks started again | most by one fault |",
                "|---|---|---|---|",
                *rows,
                f"| all | {self.injected.total()} | {self.redone.total()} | {max(self.worst.values(), default=0)} |",
                "",
                f"{self.jobs} jobs of {self.units} units: {self.lost} lost, {self.doubled} reports doubled, "
                f"{self.redone_units} tries beyond the first, at most {self.most_tries} tries of one unit, "
                f"{self.left_over} folders or announcements left over; {self.seconds:.0f} s.",
            ]
        )


@contextmanager
def installation(folder: Path, seed: int) -> Iterator[tuple[World, Services]]:
    """Servers, two workers, and the services of whoever submits."""
    binaries = postgres_binaries()
    if binaries is None:
        raise NoServer("PostgreSQL is not installed here")
    with ExitStack() as stack:
        postgres = stack.enter_context(PostgresServer(binaries))
        redis = stack.enter_context(RedisServer(redis_binary()))
        settings = Settings(
            home=folder,
            database_url=SecretStr(postgres.url),
            broker_url=SecretStr(redis.url),
            device="cpu",
            lease_s=3.0,
            heartbeat_s=0.5,
            reap_s=0.5,
            retry_delay_s=0.1,
            max_attempts=20,
        )
        migrate(settings)
        services = build_services(settings, handlers=HANDLERS)
        stack.callback(services.close)
        engine = build_engine(settings.effective_database_url)
        stack.callback(engine.dispose)
        paths = {"PYTHONPATH": str(Path(__file__).parent.parent)}
        options = {"handlers": HANDLERS, "code": _WORKER, "environment": paths}
        workers = [stack.enter_context(WorkerProcess(settings, **options)) for _ in range(2)]  # type: ignore[arg-type]
        queue = CeleryQueue(redis.url)
        chance = random.Random(seed)  # noqa: S311 - not a secret
        yield World(settings, SqlTransactions(engine), queue, postgres, redis, workers, chance), services


def run(folder: Path, faults: Mapping[Callable[[World], None], int], *, seed: int) -> Tally:
    """Inject the faults in an order that the seed decides, and look at what is left."""
    tally, started = Tally(), time.monotonic()
    with installation(folder, seed) as (world, services):
        order = [fault for fault, count in faults.items() for _ in range(count)]
        world.chance.shuffle(order)
        jobs: list[str] = []
        for fault in order:
            _feed(world, services, jobs, folder)
            _until(lambda: bool(world.running()), "nothing ran before a fault")
            time.sleep(world.chance.uniform(0.0, 1.5))
            held, before = world.running(), _redone(world)
            fault(world)
            again = _settled(world, held, before)
            name = fault.__name__
            tally.injected[name] += 1
            tally.redone[name] += again
            tally.worst[name] = max(tally.worst[name], again)
            sys.stderr.write(f"{time.monotonic() - started:6.1f} s  {name}: {again} again\n")
        _until(lambda: _ended(services, jobs), "not every job ended", seconds=300)
        _inspect(world, services, jobs, tally)
    tally.seconds = time.monotonic() - started
    return tally


def _feed(world: World, services: Services, jobs: list[str], folder: Path) -> None:
    """Keep at least a job's worth of work waiting."""
    with world.transactions() as tx:
        waiting = len(tx.queue.waiting(SystemClock().now()))
    if waiting >= 3:
        return
    model = folder / "model.onnx"
    model.write_bytes(b"weights")
    manifest = Manifest.model_validate({"model": {"name": f"chaos-{len(jobs)}-takes-1500ms"}})
    request = SubmitRequest(model, manifest, folder, Policy(), team_id=f"team-{len(jobs) % 3}")
    jobs.append(services.audits.submit(request).job_id)


def _settled(world: World, held: Mapping[str, int], before: int) -> int:
    """Wait until what ran has ended or runs again, and nothing else waits for another try; returns the new tries."""

    def under_way() -> bool:
        with world.transactions() as tx:
            units = [tx.units.get(unit_id) for unit_id in held]
            live = [job.id for job in tx.jobs.latest(100) if job.state in LIVE]
            waiting = [unit for job_id in live for unit in tx.units.of_job(job_id) if unit.state is UnitState.PENDING]
        again = all(unit.state is UnitState.DONE or unit.attempt > held[unit.id] for unit in units)
        return again and not any(unit.attempt for unit in waiting)

    _until(under_way, "a unit that a fault hit was not taken up again", seconds=SETTLE_S)
    return _redone(world) - before


def _redone(world: World) -> int:
    """Tries beyond the first, of all units."""
    with world.transactions() as tx:
        return tx.queue.statistics(SystemClock().now()).units_redone


def _ended(services: Services, jobs: Sequence[str]) -> bool:
    return all(services.jobs.status(job_id).state in TERMINAL for job_id in jobs)


def _inspect(world: World, services: Services, jobs: Sequence[str], tally: Tally) -> None:
    """Every job done, every unit done, every result in the store, one report a job, nothing left over."""
    store = build_store(world.settings)
    for job_id in jobs:
        with world.transactions() as tx:
            job, units, reports = tx.jobs.get(job_id), tx.units.of_job(job_id), tx.reports.of_job(job_id)
        results = [unit.result for unit in units if unit.state is UnitState.DONE and unit.result is not None]
        stored = all(store.exists(digest) for result in results for digest in result.outputs.values())
        tally.jobs += 1
        tally.lost += job.state is not JobState.DONE or len(results) < len(units) or not reports or not stored
        tally.doubled += max(0, len(reports) - 1) + len(units) - len({unit.spec.key for unit in units})
        tally.units += len(units)
        tally.redone_units += sum(unit.attempt - 1 for unit in units)
        tally.most_tries = max(tally.most_tries, *(unit.attempt for unit in units))
        services.audits.get_report(job_id)
    scratch = world.settings.home / "scratch"
    _until(lambda: not any(scratch.iterdir()), "a killed process's folder was not swept")
    with world.transactions() as tx:
        tally.left_over = len(tx.outbox.pending()) + len(tx.units.expired(SystemClock().now()))


def _until(condition: Callable[[], bool], otherwise: str, *, seconds: float = 60.0) -> None:
    """Wait until it holds; a database that is away is asked again."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except StorageFailure:
            pass
        time.sleep(0.1)
    raise TimeoutError(otherwise)


def main() -> int:
    """Run, print the tally, and say by the exit code whether it is good."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--share", type=float, default=1.0, help="part of the full run's faults")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    faults = {fault: max(1, round(count * options.share)) for fault, count in FAULTS.items()}
    with tempfile.TemporaryDirectory(prefix="auditor-chaos-", ignore_cleanup_errors=True) as folder:
        tally = run(Path(folder), faults, seed=options.seed)
    sys.stdout.write(tally.markdown() + "\n")
    if options.out is not None:
        options.out.write_text(tally.markdown() + "\n")
    return 0 if tally.good else 1


if __name__ == "__main__":
    sys.exit(main())
