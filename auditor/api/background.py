"""The worker of a server that has no others: one thread runs the units that wait, each when it is its turn."""

from __future__ import annotations

import logging
import threading

from auditor.errors import AuditorError, Cancelled
from auditor.service.execution import Executor
from auditor.service.jobs import Jobs

_LOG = logging.getLogger("auditor.api")
_POLL_S = 1.0
"""How long it stays asleep unless it is woken: units wait for a later time, and leases of dead processes run out."""


class Background:
    """A thread that runs units of all teams, one after the other and by the same rule as workers.

    Args:
        jobs: puts back what an earlier process left.
        executor: runs units.
    """

    def __init__(self, jobs: Jobs, executor: Executor) -> None:
        self._jobs = jobs
        self._executor = executor
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="auditor-jobs", daemon=True)

    def start(self) -> None:
        """Begin, also with what an earlier process left."""
        self._thread.start()

    def wake(self) -> None:
        """There is something to do."""
        self._woken.set()

    def stop(self) -> None:
        """End: the unit that runs now is given back, and goes on with the next start."""
        self._stopping.set()
        self._woken.set()
        self._thread.join(timeout=30)

    def _work(self) -> None:
        while not self._stopping.is_set():
            if not self._run_next():
                self._woken.wait(_POLL_S)
                self._woken.clear()

    def _run_next(self) -> bool:
        """Whether another unit may wait."""
        try:
            self._jobs.recover()
            return self._executor.execute_next(interrupted=self._stopping.is_set)
        except Cancelled:
            return True
        except AuditorError as error:
            _LOG.error("%s: %s", error.code, "; ".join((error.message, *getattr(error, "__notes__", ()))))
        except Exception:
            _LOG.exception("a unit could not be run")
        return False
