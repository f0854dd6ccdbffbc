"""A real worker in a process of its own."""

from __future__ import annotations

import signal
from collections.abc import Mapping

from auditor.settings import Settings
from auditor.testing.process import OwnProcess, children_of

_CODE = """
import sys
from auditor.settings import Settings
from workers.lifecycle import run_worker
sys.exit(run_worker(Settings(), {concurrency}, gpus={gpus!r}, drain_timeout_s={drain_timeout_s}, handlers={handlers!r}))
"""


class WorkerProcess(OwnProcess):
    """A worker on `settings`, which is ready when it takes units.

    Args:
        settings: with a broker.
        handlers: `module:function` of the runner's handler table.
        concurrency, gpus, drain_timeout_s: as for `run_worker`.
        environment: further variables.
        code: what the process runs in place of `run_worker` with these arguments.
    """

    NOUN, READY, END = "worker", " ready.", signal.SIGQUIT

    def __init__(
        self,
        settings: Settings,
        *,
        handlers: str,
        concurrency: int = 1,
        gpus: tuple[str, ...] = (),
        drain_timeout_s: float = 600.0,
        environment: Mapping[str, str] | None = None,
        code: str = _CODE,
    ) -> None:
        filled = code.format(concurrency=concurrency, gpus=gpus, drain_timeout_s=drain_timeout_s, handlers=handlers)
        super().__init__(settings, filled, environment)

    def pool(self) -> tuple[int, ...]:
        """Its pool processes."""
        return () if self.process is None else children_of(self.process.pid)
