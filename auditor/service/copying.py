"""Copying the files of a unit from and to the artifact store."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from auditor.errors import Cancelled, StorageAway
from auditor.service.ports import Clock

T = TypeVar("T")
_POLL_S = 0.5
_PAUSE_S = 2.0


@dataclass(frozen=True)
class Copying:
    """Copies, waiting for a store that is away: one that restarts must not cost the work that is done.

    Attributes:
        clock: the time.
        should_stop: polled while a file is copied and once after, which renews a claim: no file may outlast a lease.
        patience: how long the store is waited for, each time.
    """

    clock: Clock
    should_stop: Callable[[], bool]
    patience: timedelta = timedelta(0)

    def __call__(self, copy: Callable[[], T]) -> T:
        """What `copy` returns.

        Raises:
            Cancelled: asked to stop; the file is copied to its end all the same.
            StorageAway: the store was away for as long as `patience`.
        """
        missed = None
        while True:
            try:
                return self._polled(copy)
            except StorageAway:
                now = self.clock.now()
                missed = missed or now
                if now - missed >= self.patience:
                    raise
                self.clock.sleep(_PAUSE_S)

    def _polled(self, copy: Callable[[], T]) -> T:
        with ThreadPoolExecutor(1) as pool:
            copying = pool.submit(copy)
            is_done = False
            while not is_done:
                is_done = bool(wait((copying,), timeout=_POLL_S).done)
                if self.should_stop():
                    raise Cancelled("the unit was stopped")
        return copying.result()
