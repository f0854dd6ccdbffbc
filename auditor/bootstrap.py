"""Settings to services: the one place that wires. Also the runner's handler table, which the child process loads."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine

from auditor.adapters.blobs import Blobs
from auditor.adapters.clock import SystemClock
from auditor.adapters.content_store import ContentStore
from auditor.adapters.inline_queue import InlineQueue
from auditor.adapters.local_blobs import LocalBlobs
from auditor.adapters.sealing import Sealer
from auditor.contracts.jobs import JobKind, UnitSpec
from auditor.db.engine import build_engine
from auditor.db.migrate import HEAD, require_head, upgrade
from auditor.db.unit_of_work import SqlTransactions
from auditor.errors import NotFound
from auditor.runner.memory import memory_here
from auditor.runner.process import ProcessRunner
from auditor.service.audits import Audits
from auditor.service.claims import ClaimRules
from auditor.service.execution import Executor
from auditor.service.garbage import Garbage
from auditor.service.jobs import Jobs
from auditor.service.metrics import Metrics
from auditor.service.pipeline import AUDIT, Pipeline
from auditor.service.ports import ArtifactStore, Clock, JobQueue
from auditor.service.reaper import Reaper
from auditor.service.repositories import Database
from auditor.service.verdicts import Verdicts
from auditor.service.workspace import Workspace
from auditor.settings import Settings
from remediation.pipeline import REPAIR
from remediation.service import Repairs

if TYPE_CHECKING:
    from auditor.service.session import Handler, Session

UNIT_HANDLERS = "auditor.bootstrap:unit_handlers"

PIPELINES: Mapping[JobKind, Pipeline] = {JobKind.AUDIT: AUDIT, JobKind.REPAIR: REPAIR}

HANDLERS = {
    "check": "auditor.service.stages.check:run",
    "probe": "auditor.service.stages.probe:run",
    "prepare": "auditor.service.stages.prepare:run",
    "attack": "auditor.service.stages.attack:run",
    "split-attack": "auditor.service.stages.split:run",
    "fisher": "auditor.service.stages.fisher:run",
    "finish": "auditor.service.stages.finish:run",
    "repair-fetch": "remediation.published_weights:run",
    "repair-pretrain": "remediation.stages:repair_pretrain",
    "repair-match": "remediation.decisions:repair_match",
    "repair-train": "remediation.stages:repair_train",
    "repair-halve": "remediation.decisions:repair_halve",
    "repair-choose": "remediation.decisions:repair_choose",
    "repair-compare": "remediation.decisions:repair_compare",
}
"""Unit kind to `module:function`, called as (unit, workspace, ctx); imported in the runner process, never here."""


_PRELOAD = (
    *sorted({place.partition(":")[0] for place in HANDLERS.values()}),
    "torch._dynamo",
    "torch._meta_registrations",
)
"""What nearly every unit imports; the last two otherwise come with the first optimiser and the first shape traced."""


@dataclass(frozen=True)
class Services:
    """The use-cases, and what a door may need beside them.

    Attributes:
        audits: submit, reports.
        repairs: repair what an audit found.
        jobs: run in place, wait, status, list, cancel, resume.
        executor: runs one unit; workers call it.
        reaper: puts back what was lost; workers call it.
        metrics: what the service does, in numbers; `auditor.adapters.prometheus` renders it.
        verdicts: judges what earlier rules have judged; whoever starts to serve or to work calls it.
        store: artifacts.
        garbage: deletes artifacts that nothing refers to.
        database: all transactions.
        clock: the time.
        pipelines: how each kind of job runs.
        in_place: no broker is configured, so whoever submits also runs.
        check_timeout_s: seconds that the check of a team's submission may take.
        close: ends a waiting runner process and gives the database connections back.
    """

    audits: Audits
    repairs: Repairs
    jobs: Jobs
    executor: Executor
    reaper: Reaper
    metrics: Metrics
    verdicts: Verdicts
    store: ArtifactStore
    garbage: Garbage
    database: Database
    clock: Clock
    pipelines: Mapping[JobKind, Pipeline]
    in_place: bool
    check_timeout_s: float
    close: Callable[[], None]

    def write_repaired_model(self, job_id: str, path: Path) -> None:
        """The model that a repair made; raises NotFound where it kept none."""
        report = self.audits.get_repair_report(job_id)
        digest = report.model_digest
        if digest is None or not self.jobs.has_left(job_id, digest):
            raise NotFound(f"the remediation '{job_id}' kept no model", remedy="Its report says why.")
        self.store.get_path(digest, path)

    def of_team(self, team_id: str, submitter: str) -> Services:
        """The same use-cases for a person, in a world in which no other team's audits exist."""
        transactions = self.database.of_team(team_id)
        jobs = Jobs(
            transactions=transactions,
            executor=self.executor,
            clock=self.clock,
            pipelines=self.pipelines,
            submitter=submitter,
        )
        audits = Audits(
            store=self.store,
            transactions=transactions,
            executor=self.executor,
            jobs=jobs,
            clock=self.clock,
            check_timeout_s=self.check_timeout_s,
        )
        repairs = Repairs(store=self.store, transactions=transactions, jobs=jobs)
        return replace(self, audits=audits, repairs=repairs, jobs=jobs)


def build_services(
    settings: Settings, *, handlers: str = UNIT_HANDLERS, pipelines: Mapping[JobKind, Pipeline] = PIPELINES
) -> Services:
    """Wire everything for `settings`. A SQLite file is migrated on the way; a PostgreSQL schema must be up to date.

    Args:
        settings: where things are.
        handlers: `module:function` of the runner's handler table.
        pipelines: how each kind of job runs.

    Raises:
        StorageFailure: the database cannot be used or its schema is old.
        InvalidInput: the database address cannot be read.
    """
    engine = _open_database(settings)
    transactions, clock, store = SqlTransactions(engine), SystemClock(), build_store(settings)
    runner = ProcessRunner(
        handlers=handlers,
        cache=settings.home / "cache",
        preload=_PRELOAD if handlers == UNIT_HANDLERS else (),
        device=settings.device,
        timeout_s=settings.unit_timeout_s,
        memory_bytes=runner_memory(settings),
        threads=settings.threads,
        isolation=settings.isolation,
        private=settings.home,
        secret=settings.oidc_client_secret_file,
    )

    def close() -> None:
        runner.close()
        engine.dispose()

    queue = _queue(settings)
    executor = Executor(
        store=store,
        transactions=transactions,
        queue=queue,
        runner=runner,
        clock=clock,
        pipelines=pipelines,
        scratch=settings.home / "scratch",
        rules=_rules(settings),
    )
    jobs = Jobs(transactions=transactions, executor=executor, clock=clock, pipelines=pipelines)
    audits = Audits(store=store, transactions=transactions, executor=executor, jobs=jobs, clock=clock)
    return Services(
        audits=audits,
        repairs=Repairs(store=store, transactions=transactions, jobs=jobs),
        jobs=jobs,
        executor=executor,
        reaper=Reaper(
            transactions=transactions,
            jobs=jobs,
            queue=queue,
            clock=clock,
            scratch=settings.home / "scratch",
            unit_timeout_s=settings.unit_timeout_s,
        ),
        metrics=Metrics(transactions=transactions, clock=clock),
        verdicts=Verdicts(transactions=transactions, store=store),
        store=store,
        garbage=Garbage(store=store, transactions=transactions, clock=clock),
        database=transactions,
        clock=clock,
        pipelines=pipelines,
        in_place=settings.broker_url is None,
        check_timeout_s=settings.check_timeout_s,
        close=close,
    )


def migrate(settings: Settings) -> tuple[str, int]:
    """Bring the database of `settings` up to date and make the bucket, if there is to be one.

    Returns the revision, and how many stored reports were judged anew by today's rules.
    """
    if settings.artifacts is not None:
        from auditor.adapters.s3_blobs import S3Blobs

        S3Blobs(settings.artifacts, settings.s3_endpoint).make_bucket()
    engine = build_engine(settings.effective_database_url)
    try:
        upgrade(engine)
        return HEAD, Verdicts(transactions=SqlTransactions(engine), store=build_store(settings)).judge_anew()
    finally:
        engine.dispose()


def unit_handlers() -> dict[str, Handler]:
    """The handler table of the runner process; a stage's module is imported when its unit runs."""
    return {kind: _lazily(place) for kind, place in HANDLERS.items()}


def _lazily(place: str) -> Handler:
    def handle(unit: UnitSpec, workspace: Workspace, session: Session) -> dict[str, Any]:
        module, _, function = place.partition(":")
        value: dict[str, Any] = getattr(importlib.import_module(module), function)(unit, workspace, session.context())
        return value

    return handle


def _open_database(settings: Settings) -> Engine:
    engine = build_engine(settings.effective_database_url)
    try:
        if engine.dialect.name == "sqlite":
            upgrade(engine)
        else:
            require_head(engine)
    except BaseException:
        engine.dispose()
        raise
    return engine


def build_store(settings: Settings) -> ContentStore:
    """Artifacts where the settings say, encrypted if they hold keys."""
    blobs: Blobs = LocalBlobs(settings.home / "artifacts")
    if settings.artifacts is not None:
        from auditor.adapters.s3_blobs import S3Blobs

        blobs = S3Blobs(settings.artifacts, settings.s3_endpoint)
    keys = settings.encryption_keys
    return ContentStore(blobs, None if keys is None else Sealer(keys.get_secret_value().split(",")))


def runner_memory(settings: Settings) -> int:
    """Bytes that a runner process may have to itself; 0: no limit."""
    return memory_here() if settings.runner_memory_bytes is None else settings.runner_memory_bytes


def _rules(settings: Settings) -> ClaimRules:
    return ClaimRules(
        lease=timedelta(seconds=settings.lease_s),
        heartbeat_s=settings.heartbeat_s,
        max_attempts=settings.max_attempts,
        retry_delay_s=settings.retry_delay_s,
        team_units=settings.team_units,
    )


def _queue(settings: Settings) -> JobQueue:
    if settings.broker_url is None:
        return InlineQueue()
    from auditor.adapters.celery_queue import CeleryQueue

    return CeleryQueue(settings.broker_url.get_secret_value())
