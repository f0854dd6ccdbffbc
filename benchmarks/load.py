"""Many submissions at once, over HTTP: is every one accepted, how long do they take, and does the queue drain fairly?

    python -m benchmarks.load [--jobs 500] [--clients 50] [--workers 4] [--checks 2] [--real-checks]
                               [--database URL --broker URL]

One API process, as `auditor serve` runs it, with its default limits. Three teams submit small audits, each client with
a token of its own: of every eight clients, five are of one team. One submission in ten has priority. Each model is
checked in a runner process of its own, which computes nothing (`auditor.testing.handlers`), or with `--real-checks` is
read and run as any submission is. When all are accepted, workers in this process drain the queue, computing nothing.
Private PostgreSQL and Redis servers are started unless addresses are given.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from auditor.adapters.clock import SystemClock
from auditor.adapters.inline_queue import InlineQueue
from auditor.bootstrap import build_store, migrate
from auditor.contracts.jobs import JobKind, JobState
from auditor.db.engine import build_engine
from auditor.db.unit_of_work import SqlTransactions
from auditor.service.execution import Executor
from auditor.service.journal import LOGGER
from auditor.service.pipeline import AUDIT
from auditor.settings import Settings
from auditor.testing.api import ApiProcess
from auditor.testing.handlers import fast_handlers
from auditor.testing.ports import InProcessRunner
from auditor.testing.servers import NoServer, PostgresServer, RedisServer, postgres_binaries, redis_binary
from benchmarks.load_clients import Submitted, classifiers, percentiles, random_bytes, submit_all, write_models
from benchmarks.tenants import make_tenants

HANDLERS, CHECKED = (f"auditor.testing.handlers:{name}_handlers" for name in ("fast", "checked"))
TEAMS = ("large",) * 5 + ("middle",) * 2 + ("small",)
"""Of each client, in turn."""


@dataclass
class Claims(logging.Handler):
    """Who was served, in order, from the journal."""

    order: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep team and job of every claim, and say how many there were."""
        if record.msg == "unit_claimed":
            self.order.append((record.__dict__["team"], record.__dict__["job_id"]))
            if len(self.order) % 500 == 0:
                sys.stderr.write(f"{len(self.order)} units taken\n")

    __hash__ = logging.Handler.__hash__


@dataclass(frozen=True)
class Drained:
    """What came of it.

    Attributes:
        submitted: each submission.
        submit_s: seconds until all were answered.
        made: jobs that are there.
        lost: accepted jobs that are not done.
        seconds: time to drain.
        claims: (team, job) of every claim, in order.
    """

    submitted: tuple[Submitted, ...]
    submit_s: float
    made: int
    lost: int
    seconds: float
    claims: tuple[tuple[str, str], ...]

    @property
    def accepted(self) -> frozenset[str]:
        """Jobs that clients were told of."""
        return frozenset(one.job_id for one in self.submitted if one.job_id is not None)

    @property
    def urgent(self) -> frozenset[str]:
        """Jobs with priority."""
        return frozenset(one.job_id for one in self.submitted if one.job_id is not None and one.urgent)

    @property
    def good(self) -> bool:
        """Every submission accepted, each one job, and none lost."""
        return len(self.accepted) == self.made == len(self.submitted) and not self.lost

    def shares(self) -> dict[str, int]:
        """Claims of each team until the first of them had nothing left: equal, if the queue is fair."""
        plain = [(team, job) for team, job in self.claims if job not in self.urgent]
        last = {team: place for place, (team, _) in enumerate(plain)}
        return dict(Counter(team for team, _ in plain[: min(last.values()) + 1]))

    def last_urgent_frac(self) -> float:
        """Where in the order of claims the last unit of a job with priority was, 0 to 1."""
        places = [place for place, (_, job) in enumerate(self.claims) if job in self.urgent]
        return max(places, default=0) / len(self.claims)


def load(settings: Settings, *, jobs: int, clients: int, workers: int, real_checks: bool = False) -> Drained:
    """Submit everything, then let workers take units until none is left."""
    migrate(settings)
    with ExitStack() as stack:
        submitted, submit_s = _submitted(settings, jobs, clients, real_checks=real_checks)
        engine = build_engine(settings.effective_database_url)
        stack.callback(engine.dispose)
        transactions = SqlTransactions(engine)
        executor = _executor(transactions, settings)
        claims, log = Claims(), logging.getLogger(LOGGER)
        log.addHandler(claims)
        log.setLevel(logging.INFO)
        stack.callback(log.removeHandler, claims)
        started = time.monotonic()
        _in_parallel(workers, lambda: _work(executor))
        seconds = time.monotonic() - started
        with transactions() as tx:
            states = {job.id: job.state for job in tx.jobs.latest(2 * jobs)}
            teams = {team.id: team.name for team in tx.teams.page(100)}
        lost = sum(states.get(one.job_id) is not JobState.DONE for one in submitted if one.job_id is not None)
        order = tuple((teams[team_id], job_id) for team_id, job_id in claims.order)
        return Drained(tuple(submitted), submit_s, len(states), lost, seconds, order)


def _submitted(settings: Settings, jobs: int, clients: int, *, real_checks: bool) -> tuple[Sequence[Submitted], float]:
    """What came of each, and seconds until all were answered."""
    teams = [TEAMS[number % len(TEAMS)] for number in range(clients)]
    write_models(settings.home, jobs, classifiers(settings.home) if real_checks else random_bytes)
    with ApiProcess(settings, handlers=CHECKED if real_checks else HANDLERS) as api:
        made = make_tenants(api.url, api.bootstrap_token, Counter(teams))
        tokens = [made[team].pop() for team in teams]
        started = time.monotonic()
        return submit_all(api.url, tokens, settings.home, jobs), time.monotonic() - started


def _executor(transactions: SqlTransactions, settings: Settings) -> Executor:
    return Executor(
        store=build_store(settings),
        transactions=transactions,
        queue=InlineQueue(),
        runner=InProcessRunner(fast_handlers(), settings.home / "cache"),
        clock=SystemClock(),
        pipelines={JobKind.AUDIT: AUDIT},
        scratch=settings.home / "scratch",
    )


def _work(executor: Executor) -> None:
    """A worker; other workers may be about to make new units when it finds none."""
    idle = 0
    while idle < 20:
        idle = 0 if executor.execute_next() else idle + 1
        if idle:
            time.sleep(0.05)


def _in_parallel(count: int, work: Callable[[], None]) -> None:
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--checks", type=int, default=2, help="AUDITOR_CONCURRENT_CHECKS")
    parser.add_argument("--real-checks", action="store_true", help="each model is read and run before it is accepted")
    parser.add_argument("--database", help="address of an empty database; default: a private PostgreSQL server")
    parser.add_argument("--broker", help="address of a Redis database; default: a private server")
    options = parser.parse_args()
    sizes = {"jobs": options.jobs, "clients": options.clients, "workers": options.workers}
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="auditor-load-")))
        settings = Settings(
            home=home,
            database_url=SecretStr(options.database or stack.enter_context(_postgres()).url),
            broker_url=SecretStr(options.broker or stack.enter_context(RedisServer(redis_binary())).url),
            device="cpu",
            concurrent_checks=options.checks,
        )
        found = load(settings, **sizes, real_checks=options.real_checks)
    refused = Counter(one.problem for one in found.submitted if one.job_id is None)
    rate = len(found.claims) / found.seconds
    sys.stdout.write(
        f"{len(found.accepted)} of {options.jobs} accepted in {found.submit_s:.0f} s, "
        f"{found.made} jobs made, {found.lost} lost\n"
        f"upload: {percentiles(found.submitted, lambda one: one.upload_s)}\n"
        f"submission: {percentiles(found.submitted, lambda one: one.submit_s)}\n"
        f"both: {percentiles(found.submitted, lambda one: one.upload_s + one.submit_s)}\n"
        f"{len(found.claims)} units in {found.seconds:.1f} s ({rate:.0f} a second) with {options.workers} workers\n"
        f"units taken while all teams had some waiting: {found.shares()}\n"
        f"the last unit of a job with priority was taken after {100 * found.last_urgent_frac():.0f} % of all\n"
    )
    for problem, count in refused.items():
        sys.stdout.write(f"refused {count} times: {problem}\n")
    return 0 if found.good else 1


def _postgres() -> PostgresServer:
    binaries = postgres_binaries()
    if binaries is None:
        raise NoServer("PostgreSQL is not installed here; give --database")
    return PostgresServer(binaries)


if __name__ == "__main__":
    sys.exit(main())
