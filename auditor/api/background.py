"""Jobs of a server without workers: one thread runs them here, one after the other."""

from __future__ import annotations

import logging
import queue
import threading

from auditor.contracts.jobs import JobEvent
from auditor.errors import AuditorError, Cancelled
from auditor.service.jobs import Jobs
from auditor.service.states import TERMINAL

_LOG = logging.getLogger("auditor.api")


class _Stop(BaseException):
    """The server ends: the unit is given back, and the job is not cancelled."""


class Background:
    """A thread that runs what it is given.

    Args:
        jobs: over all teams.
    """

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._waiting: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="auditor-jobs", daemon=True)

    def start(self) -> None:
        """Begin, first with what an earlier process left."""
        for view in reversed(self._jobs.list(1000)):
            if view.state not in TERMINAL:
                self.run(view.id)
        self._thread.start()

    def run(self, job_id: str) -> None:
        """Run a job when it is its turn."""
        self._waiting.put(job_id)

    def stop(self) -> None:
        """End after the unit that runs now; what is not done goes on with the next start."""
        self._stopping.set()
        self._waiting.put(None)
        self._thread.join(timeout=30)

    def _work(self) -> None:
        while (job_id := self._waiting.get()) is not None and not self._stopping.is_set():
            try:
                self._jobs.run_in_place(job_id, self._stop_between_units)
            except _Stop:
                return
            except Cancelled:
                _LOG.info("job %s was stopped", job_id)
            except AuditorError as error:
                _LOG.error("job %s: %s", job_id, error.message)
            except Exception:
                _LOG.exception("job %s", job_id)

    def _stop_between_units(self, _event: JobEvent) -> None:
        if self._stopping.is_set():
            raise _Stop
