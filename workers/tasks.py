"""The tasks: as thin as a web view. A message carries an id and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Celery, Task

from auditor.adapters.celery_queue import RUN_UNIT
from auditor.bootstrap import Services
from auditor.errors import Cancelled, StorageFailure


def register(app: Celery, services: Callable[[], Services]) -> None:
    """Put the tasks on `app`.

    Args:
        app: the worker's application.
        services: gives the services of the current process; called inside a task, never in the parent.
    """

    def run_unit(self: Task, unit_id: str) -> None:
        try:
            services().executor.execute_unit(unit_id)
        except Cancelled:
            return  # the unit waits again, and its job says that it was cancelled
        except StorageFailure as error:
            raise self.retry(exc=error, countdown=min(300, 5 * 2**self.request.retries)) from error

    options: dict[str, Any] = {"name": RUN_UNIT, "bind": True, "max_retries": 8}
    app.task(**options)(run_unit)
