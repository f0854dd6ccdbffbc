"""Many submissions at once, through the service: is every one accepted, and does the queue drain fairly?

    python -m benchmarks.load [--jobs 500] [--threads 50] [--workers 4] [--database URL]

Three teams submit small audits: one of them five of every eight, first and all at once. One job in ten has priority.
The units are computed in this process (`auditor.testing.handlers`), so what is measured is the database, the queue and
the code around them; a private PostgreSQL server is started unless an address is given.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from auditor.adapters.clock import SystemClock
from auditor.adapters.content_store import ContentStore
from auditor.adapters.inline_queue import InlineQueue
from auditor.adapters.local_blobs import LocalBlobs
from auditor.contracts.jobs import JobKind, JobState
from auditor.contracts.manifest import Manifest
from auditor.contracts.policy import Policy
from auditor.db.engine import build_engine
from auditor.db.migrate import upgrade
from auditor.db.unit_of_work import SqlTransactions
from auditor.service.audits import Audits, SubmitRequest
from auditor.service.execution import Executor
from auditor.service.jobs import Jobs
from auditor.service.journal import LOGGER
from auditor.service.pipeline import AUDIT
from auditor.testing.handlers import fast_handlers
from auditor.testing.ports import InProcessRunner
from auditor.testing.servers import NoServer, PostgresServer, postgres_binaries

TEAMS = ("large",) * 5 + ("middle",) * 2 + ("small",)
"""Who submits, in turn."""


@dataclass
class Claims(logging.Handler):
    """Who was served, in order, from the journal."""

    order: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep team and job of every claim."""
        if record.msg == "unit_claimed":
            self.order.append((record.__dict__["team"], record.__dict__["job_id"]))

    __hash__ = logging.Handler.__hash__


@dataclass(frozen=True)
class Drained:
    """What came of it.

    Attributes:
        accepted: jobs, in the order they were made.
        submit_s: seconds of each submission.
        lost: jobs that are not done.
        seconds: time to drain.
        claims: (team, job) of every claim, in order.
        urgent: jobs with priority.
    """

    accepted: tuple[str, ...]
    submit_s: tuple[float, ...]
    lost: int
    seconds: float
    claims: tuple[tuple[str, str], ...]
    urgent: frozenset[str]

    def shares(self) -> dict[str, int]:
        """Claims of each team until the first of them had nothing left: equal, if the queue is fair."""
        plain = [(team, job) for team, job in self.claims if job not in self.urgent]
        last = {team: place for place, (team, _) in enumerate(plain)}
        return dict(Counter(team for team, _ in plain[: min(last.values()) + 1]))

    def last_urgent_frac(self) -> float:
        """Where in the order of claims the last unit of a job with priority was, 0 to 1."""
        places = [place for place, (_, job) in enumerate(self.claims) if job in self.urgent]
        return max(places, default=0) / len(self.claims)


def drain(url: str, folder: Path, *, jobs: int, threads: int, workers: int) -> Drained:
    """Submit everything, then let workers take units until none is left."""
    with ExitStack() as stack:
        engine = build_engine(url)
        stack.callback(engine.dispose)
        upgrade(engine)
        audits, executor, transactions = _wired(SqlTransactions(engine), folder)
        made = _submit_all(audits, folder, jobs, threads)
        urgent = frozenset(job_id for number, (job_id, _) in enumerate(made) if number % 10 == 9)
        claims, log = Claims(), logging.getLogger(LOGGER)
        log.addHandler(claims)
        log.setLevel(logging.INFO)
        stack.callback(log.removeHandler, claims)
        started = time.monotonic()
        _in_parallel(workers, lambda: _work(executor))
        seconds = time.monotonic() - started
        with transactions() as tx:
            lost = sum(tx.jobs.get(job_id).state is not JobState.DONE for job_id, _ in made)
        return Drained(
            accepted=tuple(job_id for job_id, _ in made),
            submit_s=tuple(took for _, took in made),
            lost=lost,
            seconds=seconds,
            claims=tuple(claims.order),
            urgent=urgent,
        )


def _wired(transactions: SqlTransactions, folder: Path) -> tuple[Audits, Executor, SqlTransactions]:
    store, clock, pipelines = ContentStore(LocalBlobs(folder / "artifacts")), SystemClock(), {JobKind.AUDIT: AUDIT}
    executor = Executor(
        store=store,
        transactions=transactions,
        queue=InlineQueue(),
        runner=InProcessRunner(fast_handlers(), folder / "cache"),
        clock=clock,
        pipelines=pipelines,
        scratch=folder / "scratch",
    )
    jobs = Jobs(transactions=transactions, executor=executor, clock=clock, pipelines=pipelines)
    audits = Audits(store=store, transactions=transactions, executor=executor, jobs=jobs, clock=clock)
    return audits, executor, transactions


def _submit_all(audits: Audits, folder: Path, jobs: int, threads: int) -> Sequence[tuple[str, float]]:
    """Job and seconds of each submission."""
    (folder / "model.onnx").write_bytes(b"weights")

    def submit(number: int) -> tuple[str, float]:
        started = time.monotonic()
        manifest = Manifest.model_validate({"model": {"name": f"model-{number}"}})
        request = SubmitRequest(
            folder / "model.onnx",
            manifest,
            folder,
            Policy(),
            team_id=TEAMS[number % len(TEAMS)],
            priority=int(number % 10 == 9),
        )
        return audits.submit(request).job_id, time.monotonic() - started

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(submit, range(jobs)))


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
    parser.add_argument("--threads", type=int, default=50)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--database", help="address of an empty database; default: a private PostgreSQL server")
    options = parser.parse_args()
    sizes = {"jobs": options.jobs, "threads": options.threads, "workers": options.workers}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="auditor-load-")))
        url = options.database
        if url is None:
            binaries = postgres_binaries()
            if binaries is None:
                raise NoServer("PostgreSQL is not installed here; give --database")
            url = stack.enter_context(PostgresServer(binaries)).url
        found = drain(url, folder, **sizes)
    cuts = statistics.quantiles(found.submit_s, n=100)
    rate = len(found.claims) / found.seconds
    sys.stdout.write(
        f"{len(set(found.accepted))} of {options.jobs} accepted, {found.lost} lost\n"
        f"submission: median {cuts[49]:.3f} s, 95 % {cuts[94]:.3f} s, 99 % {cuts[98]:.3f} s\n"
        f"{len(found.claims)} units in {found.seconds:.1f} s ({rate:.0f} a second) with {options.workers} workers\n"
        f"units taken while all teams had some waiting: {found.shares()}\n"
        f"the last unit of a job with priority was taken after {100 * found.last_urgent_frac():.0f} % of all\n"
    )
    return 1 if found.lost or len(set(found.accepted)) < options.jobs else 0


if __name__ == "__main__":
    sys.exit(main())
