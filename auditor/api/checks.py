"""Places for the checks of submissions: few at a time, and never all of them one team's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio

T = TypeVar("T")


class CheckPlaces:
    """Who may check a submission now; the others wait, each behind their own team.

    A team holds, or waits for, at most all places but one, so that its slow models keep no other team out. Where there
    is one place, it is everyone's.

    Args:
        places: checks at a time in this process.
    """

    def __init__(self, places: int) -> None:
        self._all = anyio.CapacityLimiter(places)
        self._most = max(1, places - 1)
        self._of_teams: dict[str, anyio.CapacityLimiter] = {}

    async def run(self, team_id: str, check: Callable[[], T]) -> T:
        """What `check` returns, called in a thread when there is a place for this team."""
        of_team = self._of_teams.setdefault(team_id, anyio.CapacityLimiter(self._most))
        async with of_team:
            return await anyio.to_thread.run_sync(check, limiter=self._all)
