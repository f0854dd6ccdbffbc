"""The tasks: as thin as a web view. A message only wakes; whose turn it is, the database says."""

from __future__ import annotations

import logging
from collections.abc import Callable

from celery import Celery

from auditor.adapters.celery_queue import RUN_UNIT
from auditor.bootstrap import Services
from auditor.errors import Cancelled, StorageFailure
from workers.drain import Drain

_LOG = logging.getLogger("auditor.worker")


def register(app: Celery, services: Callable[[], Services], drain: Drain) -> None:
    """Put the tasks on `app`.

    Args:
        app: the worker's application.
        services: gives the services of the current process; called inside a task, never in the parent.
        drain: whether this worker is to stop.
    """

    def run_unit(_unit_id: str) -> None:
        """Run units until none waits: a message may have been lost, or have come while a team was at its limit."""
        go_on = True
        while go_on and not drain.draining:
            try:
                go_on = services().executor.execute_next(interrupted=drain.stopping)
            except Cancelled:
                continue  # the unit waits again, and its job says whether it was cancelled
            except StorageFailure as error:
                _LOG.warning("storage_failed: %s", error.message, extra={"code": error.code})
                return  # what waits is announced again by the reaper

    app.task(name=RUN_UNIT)(run_unit)
