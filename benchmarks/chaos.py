"""One run with faults on real PostgreSQL, Redis, API, worker and runner processes: is anything lost or doubled?

    python -m benchmarks.chaos [--share 0.2] [--seed 0] [--out TALLY.md]

Three clients upload models to two API processes and submit them with idempotency keys. Two workers with one process
each run the audits, whose attacks take a second and a half. Faults come one after the other at random moments; after
each, every unit that was running must have ended or have been taken again, and how many were started again because of
it is counted. At the end every submission has to be one job, which is done, with every unit done and one report.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from auditor.adapters.celery_queue import CeleryQueue
from auditor.adapters.clock import SystemClock
from auditor.bootstrap import build_store, migrate
from auditor.contracts.jobs import JobState, UnitState
from auditor.db.engine import build_engine
from auditor.db.unit_of_work import SqlTransactions
from auditor.errors import StorageFailure
from auditor.service.records import Job
from auditor.service.states import LIVE, TERMINAL
from auditor.settings import Settings
from auditor.testing.api import ApiProcess
from auditor.testing.servers import NoServer, PostgresServer, RedisServer, postgres_binaries, redis_binary
from auditor.testing.worker import WorkerProcess
from benchmarks.chaos_faults import FAULTS, World
from benchmarks.chaos_submitters import Submitters
from benchmarks.tenants import make_tenants

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

_API = """
import auditor.bootstrap
from auditor.api.serving import serve
from auditor.settings import Settings
from benchmarks.chaos_faults import FullOnceBlobs
auditor.bootstrap.LocalBlobs = FullOnceBlobs
serve(Settings(), "127.0.0.1", {port}, handlers={handlers!r})
"""


@dataclass(frozen=True)
class Size:
    """How large a run is.

    Attributes:
        processes: API processes, and workers.
        at_once: submissions under way beside those that a fault is meant for; 0: none, and nothing need run.
        takes_ms: how long each attack takes.
    """

    processes: int = 2
    at_once: int = 2
    takes_ms: int = 1500


@dataclass
class Tally:
    """What the run did and found.

    Attributes:
        injected: faults, by name.
        redone: units started again, by the fault that hit them.
        worst: most units that one fault made start again.
        submissions: asked for.
        refused: submissions that no repetition got accepted.
        interrupted: uploads and submissions that had to be asked for more than once.
        lost: accepted submissions whose job, or any part of it, is not there and done.
        doubled: jobs, reports and units that are there twice.
    """

    injected: Counter[str] = field(default_factory=Counter)
    redone: Counter[str] = field(default_factory=Counter)
    worst: Counter[str] = field(default_factory=Counter)
    submissions: int = 0
    refused: int = 0
    interrupted: Counter[str] = field(default_factory=Counter)
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
        """Nothing refused, lost or doubled, no fault that cost more than one chunk, no try that no fault explains."""
        explained = self.redone_units == self.redone.total() and max(self.worst.values(), default=0) <= 1
        return explained and not (self.refused or self.lost or self.doubled or self.left_over)

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
                f"{self.submissions} submissions over HTTP: {self.refused} refused; "
                f"{self.interrupted['upload']} of them asked more than once for their upload "
                f"and {self.interrupted['submission']} for their audit.",
                "",
                f"{self.jobs} jobs of {self.units} units: {self.lost} lost, {self.doubled} jobs or reports doubled, "
                f"{self.redone_units} tries beyond the first, at most {self.most_tries} tries of one unit, "
                f"{self.left_over} folders or announcements left over; {self.seconds:.0f} s.",
            ]
        )


@contextmanager
def installation(folder: Path, size: Size, seed: int) -> Iterator[World]:
    """Servers, API processes, workers, and who submits."""
    binaries = postgres_binaries()
    if binaries is None:
        raise NoServer("PostgreSQL is not installed here")
    with ExitStack() as stack:
        postgres = stack.enter_context(PostgresServer(binaries))
        redis = stack.enter_context(RedisServer(redis_binary()))
        settings = Settings(
            home=folder / "home",
            database_url=SecretStr(postgres.url),
            broker_url=SecretStr(redis.url),
            device="cpu",
            lease_s=3.0,
            heartbeat_s=0.5,
            reap_s=0.5,
            retry_delay_s=0.1,
            max_attempts=20,
        )
        settings.home.mkdir()
        migrate(settings)
        engine = build_engine(settings.effective_database_url)
        stack.callback(engine.dispose)
        paths, count = {"PYTHONPATH": str(Path(__file__).parent.parent)}, range(size.processes)
        apis = [ApiProcess(settings, handlers=HANDLERS, code=_API, environment=paths) for _ in count]
        workers = [WorkerProcess(settings, handlers=HANDLERS, code=_WORKER, environment=paths) for _ in count]
        with ThreadPoolExecutor() as pool:
            list(pool.map(stack.enter_context, (*apis, *workers)))
        tokens = make_tenants(apis[0].url, apis[0].bootstrap_token, {f"team-{number}": 1 for number in range(3)})
        secrets = [secret for own in tokens.values() for secret in own]
        submitters = stack.enter_context(Submitters([api.url for api in apis], secrets, folder, size.takes_ms))
        chance = random.Random(seed)  # noqa: S311 - not a secret
        queue = CeleryQueue(redis.url)
        yield World(settings, SqlTransactions(engine), queue, postgres, redis, workers, apis, submitters, chance)


def run(folder: Path, faults: Mapping[Callable[[World], None], int], *, seed: int, size: Size | None = None) -> Tally:
    """Inject the faults in an order that the seed decides, and look at what is left."""
    size = size or Size()
    tally, started = Tally(), time.monotonic()
    with installation(folder, size, seed) as world:
        order = [fault for fault, count in faults.items() for _ in range(count)]
        world.chance.shuffle(order)
        for fault in order:
            _until(lambda: _fed(world, size.at_once), "nothing ran before a fault")
            time.sleep(world.chance.uniform(0.0, 1.5))
            held, before = world.running(), _redone(world)
            fault(world)
            again = _settled(world, held, before)
            name = fault.__name__
            tally.injected[name] += 1
            tally.redone[name] += again
            tally.worst[name] = max(tally.worst[name], again)
            sys.stderr.write(f"{time.monotonic() - started:6.1f} s  {name}: {again} again\n")
        _until(lambda: not world.submitters.pending, "not every submission was answered", seconds=200)
        _until(lambda: _ended(world), "not every job ended", seconds=300)
        _inspect(world, tally)
    tally.seconds = time.monotonic() - started
    return tally


def _fed(world: World, at_once: int) -> bool:
    """Keep at least half a job's worth of work waiting or being submitted; returns whether what should run does."""
    with world.transactions() as tx:
        waiting = len(tx.queue.waiting(SystemClock().now()))
    if waiting < 4 and world.submitters.pending < at_once:
        world.submitters.ask()
    return not at_once or bool(world.running())


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


def _ended(world: World) -> bool:
    with world.transactions() as tx:
        return all(job.state in TERMINAL for job in tx.jobs.latest(1000))


def _inspect(world: World, tally: Tally) -> None:
    """Every submission one job, every job done, every result in the store, one report a job, nothing left over."""
    log = world.submitters.log
    with world.transactions() as tx:
        jobs = list(tx.jobs.latest(1000))
    made = Counter(job.name for job in jobs)
    there = {job.id: job.name for job in jobs}
    tally.submissions, tally.jobs = world.submitters.asked, len(jobs)
    tally.refused, tally.interrupted = len(log.refused), Counter(what for what, _ in log.interrupted)
    tally.lost = sum(there.get(job_id) != name for name, job_id in log.accepted.items())
    tally.doubled = sum(made.values()) - len(made)
    for problem in log.refused.values():
        sys.stderr.write(f"refused: {problem}\n")
    for job in jobs:
        _inspect_job(world, job, tally)
    scratch = world.settings.home / "scratch"
    _until(lambda: not any(scratch.iterdir()), "a killed process's folder was not swept")
    with world.transactions() as tx:
        tally.left_over = len(tx.outbox.pending()) + len(tx.units.expired(SystemClock().now()))


def _inspect_job(world: World, job: Job, tally: Tally) -> None:
    store = build_store(world.settings)
    with world.transactions() as tx:
        units, reports = tx.units.of_job(job.id), tx.reports.of_job(job.id)
    results = [unit.result for unit in units if unit.state is UnitState.DONE and unit.result is not None]
    digests = [*(digest for result in results for digest in result.outputs.values()), *(row.digest for row in reports)]
    stored = all(store.exists(digest) for digest in digests)
    tally.lost += job.state is not JobState.DONE or len(results) < len(units) or not reports or not stored
    tally.doubled += max(0, len(reports) - 1) + len(units) - len({unit.spec.key for unit in units})
    tally.units += len(units)
    tally.redone_units += sum(unit.attempt - 1 for unit in units)
    tally.most_tries = max(tally.most_tries, *(unit.attempt for unit in units))


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
