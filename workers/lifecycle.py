"""A worker process from start to end."""

from __future__ import annotations

import sys
from functools import cache

from celery.signals import worker_ready

from auditor.bootstrap import UNIT_HANDLERS, Services, build_services
from auditor.errors import InvalidInput, RunnerFailure
from auditor.settings import Settings
from workers.app import build_app
from workers.tasks import register


def run_worker(settings: Settings, concurrency: int = 1, *, handlers: str = UNIT_HANDLERS) -> int:
    """Take units from the broker until told to stop; returns the exit status.

    The worker's own processes hold the credentials and never import torch; each unit is computed in a fresh runner
    process, which holds none. So a GPU's memory is free again when a unit ends, however it ends.

    Args:
        settings: where database, broker and artifacts are.
        concurrency: units at the same time; one per GPU.
        handlers: `module:function` of the runner's handler table.

    Raises:
        InvalidInput: no broker is configured.
        StorageFailure: the database cannot be used.
    """
    if settings.broker_url is None:
        raise InvalidInput("a worker needs a broker", remedy="Set AUDITOR_BROKER_URL to a Redis address.")
    if concurrency < 1:
        raise InvalidInput("a worker needs at least one process")
    _put_back_lost_units(settings, handlers)
    app = build_app(settings.broker_url.get_secret_value(), settings)

    @cache
    def services() -> Services:
        return build_services(settings, handlers=handlers)

    register(app, services)
    worker_ready.connect(_require_no_torch, weak=False)
    arguments = ["worker", "--pool=prefork", f"--concurrency={concurrency}", "--loglevel=INFO"]
    try:
        app.worker_main([*arguments, "--without-gossip", "--without-mingle"])
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    return 0


def _put_back_lost_units(settings: Settings, handlers: str) -> None:
    """What a worker that died was doing waits again. No connection stays open for the processes forked after this."""
    services = build_services(settings, handlers=handlers)
    try:
        services.jobs.recover()
    finally:
        services.close()


def _require_no_torch(**_signal: object) -> None:
    """A forked process that inherits an initialised CUDA cannot use it; the parent must stay clean."""
    if "torch" in sys.modules:
        raise RunnerFailure("the worker process has imported torch")
