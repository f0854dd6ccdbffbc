"""One process of a worker's pool: its GPU, and in the first one the reaper."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict

from billiard.process import current_process

from auditor.bootstrap import Services
from auditor.errors import StorageFailure
from workers.drain import Drain

_LOG = logging.getLogger("auditor.worker")


def set_up_process(gpus: Sequence[str], build: Callable[[], Services], drain: Drain, reap_s: float) -> None:
    """Called in every new pool process, also in one that takes the place of a dead one.

    Args:
        gpus: one for each process; empty: all see what the parent sees.
        build: makes services for the reaper alone.
        drain: ends it.
        reap_s: seconds between its rounds.
    """
    index = current_process().index
    if gpus:
        os.environ |= {"CUDA_VISIBLE_DEVICES": gpus[index], "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        _LOG.info("pool_process_started", extra={"gpu": gpus[index]})
    if index == 0:
        threading.Thread(target=reap_until, args=(build, drain, reap_s), daemon=True, name="reaper").start()


def reap_until(build: Callable[[], Services], drain: Drain, reap_s: float) -> None:
    """The reaper's rounds. It lives in the pool, since the parent forks and so holds neither threads nor connections.

    Nothing ends it early: what a round could not do, for whatever reason, is logged, and the next one does it.
    """
    services: Services | None = None
    pause = threading.Event()
    while not drain.draining:
        try:
            services = services or build()
            done = services.reaper.reap()
            if done.put_back or done.announced or done.swept:
                _LOG.info("reaped", extra=asdict(done))
        except StorageFailure as error:
            _LOG.warning("reaping_put_off: %s", error.message, extra={"code": error.code})
        except Exception:
            _LOG.exception("reaping_failed")
        pause.wait(reap_s)
