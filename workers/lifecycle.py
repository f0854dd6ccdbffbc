"""A worker process from start to end."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache

from celery.signals import setup_logging, worker_process_init, worker_process_shutdown, worker_ready

from auditor.adapters.logs import set_up_logs
from auditor.bootstrap import UNIT_HANDLERS, Services, build_services
from auditor.errors import InvalidInput, RunnerFailure
from auditor.settings import Settings
from workers.app import build_app
from workers.drain import Drain
from workers.pool import set_up_process
from workers.tasks import register

DRAIN_S = 600.0
"""How long a worker that was told to stop lets a running unit go on."""


def run_worker(
    settings: Settings,
    concurrency: int = 1,
    *,
    gpus: Sequence[str] = (),
    drain_timeout_s: float = DRAIN_S,
    handlers: str = UNIT_HANDLERS,
) -> int:
    """Take units from the queue until told to stop; returns the exit status.

    The worker's own processes hold the credentials and never import torch; each unit is computed in a fresh runner
    process, which holds none. So a GPU's memory is free again when a unit ends, however it ends.

    Args:
        settings: where database, broker and artifacts are.
        concurrency: units at the same time, where no GPUs are named.
        gpus: numbers or UUIDs of GPUs; one unit at a time on each, which fails where its GPU is not there.
        drain_timeout_s: on SIGTERM, running units may take this long to finish before they are given back.
        handlers: `module:function` of the runner's handler table.

    Raises:
        InvalidInput: no broker is configured, or the options do not fit together.
        StorageFailure: the database cannot be used.
    """
    broker_url = _checked(settings, concurrency, gpus, drain_timeout_s)
    if gpus:
        settings = settings.model_copy(update={"device": "cuda"})
    _tidy_up(settings, handlers)
    app, drain = build_app(broker_url, settings), Drain(drain_timeout_s)

    def build() -> Services:
        return build_services(settings, handlers=handlers)

    services = cache(build)
    register(app, services, drain)

    def on_pool_process(**_signal: object) -> None:
        set_up_process(gpus, build, drain, settings.reap_s)

    def on_pool_process_end(**_signal: object) -> None:
        if services.cache_info().currsize:
            services().close()

    def on_ready(**_signal: object) -> None:
        _require_no_torch()
        drain.listen()

    setup_logging.connect(set_up_logs, weak=False)
    worker_process_init.connect(on_pool_process, weak=False)
    worker_process_shutdown.connect(on_pool_process_end, weak=False)
    worker_ready.connect(on_ready, weak=False)
    arguments = ["worker", "--pool=prefork", f"--concurrency={len(gpus) or concurrency}", "--loglevel=INFO"]
    try:
        app.worker_main([*arguments, "--without-gossip", "--without-mingle"])
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    return 0


def _checked(settings: Settings, concurrency: int, gpus: Sequence[str], drain_timeout_s: float) -> str:
    """The broker's address; raises InvalidInput with every problem found."""
    problems = []
    if settings.broker_url is None:
        problems.append("a worker needs a broker: set AUDITOR_BROKER_URL to a Redis address")
    if concurrency < 1:
        problems.append("a worker needs at least one process")
    if len(set(gpus)) < len(gpus) or not all(gpus):
        problems.append(f"each GPU is named once, not '{','.join(gpus)}'")
    if gpus and settings.device == "cpu":
        problems.append("AUDITOR_DEVICE is cpu, so GPUs cannot be named")
    if gpus and concurrency > 1:
        problems.append("a worker on GPUs runs one unit on each: give GPUs or a concurrency, not both")
    if drain_timeout_s < 0:
        problems.append("the time to drain cannot be negative")
    if problems or settings.broker_url is None:
        raise InvalidInput(problems, remedy="Correct the options and settings named above.")
    return settings.broker_url.get_secret_value()


def _tidy_up(settings: Settings, handlers: str) -> None:
    """What a worker that died was doing waits again, and verdicts are those of today's rules.

    No connection stays open for the processes forked after this.
    """
    services = build_services(settings, handlers=handlers)
    try:
        services.jobs.recover()
        services.verdicts.judge_anew()
    finally:
        services.close()


def _require_no_torch() -> None:
    """A forked process that inherits an initialised CUDA cannot use it; the parent must stay clean."""
    if "torch" in sys.modules:
        raise RunnerFailure("the worker process has imported torch")
