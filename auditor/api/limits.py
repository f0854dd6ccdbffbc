"""Rate limits: a token bucket per caller, in the memory of each API process."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from auditor.errors import TooManyRequests

_MAX_CALLERS = 10_000
"""So many are remembered; the longest unseen is forgotten first."""


class RateLimit:
    """So many requests per minute and caller, all of which may come at once.

    Args:
        per_minute: how many.
        clock: seconds, monotonic.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, caller: str) -> None:
        """Count a request; raises TooManyRequests, whose `retry_after_s` says when there is room again."""
        now = self._clock()
        with self._lock:
            left, since = self._buckets.pop(caller, (float(self._per_minute), now))
            left = min(float(self._per_minute), left + (now - since) * self._per_minute / 60)
            allowed = left >= 1
            self._buckets[caller] = (left - 1 if allowed else left, now)
            if len(self._buckets) > _MAX_CALLERS:
                self._buckets.popitem(last=False)
        if not allowed:
            error = TooManyRequests(f"more than {self._per_minute} requests in a minute")
            error.retry_after_s = max(1, round((1 - left) * 60 / self._per_minute + 0.5))
            raise error
