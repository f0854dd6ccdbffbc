"""How a worker stops: what its parent was told, readable by every process of its pool."""

from __future__ import annotations

import mmap
import os
import signal
import threading
from types import FrameType

from celery.worker import state

_RUN, _DRAIN, _STOP = 0, 1, 2


class Drain:
    """One shared byte, made before the pool is forked; nothing in it can be left locked by a process that is killed.

    The first SIGTERM or SIGINT drains: no new claims, running units are finished, or given back after `timeout_s`. The
    second, or a SIGQUIT, stops: running units are given back now.

    Args:
        timeout_s: how long running units may take to finish.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._byte = mmap.mmap(-1, 1)

    @property
    def draining(self) -> bool:
        """No new claims."""
        return self._byte[0] != _RUN

    def stopping(self) -> bool:
        """Running units are to be given back."""
        return self._byte[0] == _STOP

    def drain(self) -> None:
        """Take no new units, and stop after the time allowed."""
        if not self.draining:
            self._byte[0] = _DRAIN
            timer = threading.Timer(self._timeout_s, self.stop)
            timer.daemon = True
            timer.start()

    def stop(self) -> None:
        """Give back what runs."""
        self._byte[0] = _STOP

    def listen(self) -> None:
        """Take over the parent's signals. Celery's own answer to SIGQUIT would kill the pool before it gives back."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, self._heard)

    def _heard(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGQUIT or self.draining:
            self.stop()
        else:
            self.drain()
        said = "stopping" if self.stopping() else "draining"
        os.write(
            2, f'{{"event": "{said}", "level": "info", "logger": "auditor.worker"}}\n'.encode()
        )  # no locks in here
        state.should_stop = 0  # the consumer then takes no more messages and waits for the pool
