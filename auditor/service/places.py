"""Places in the queue: whose turn it is after whose, and when about that will be. Pure functions of a snapshot."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from auditor.service.records import QueuedUnit


@dataclass(frozen=True)
class Place:
    """Where a job that waits stands.

    Attributes:
        position: 1 is next.
        eta_s: seconds until a unit of it starts, from the units ahead that are known by now; None: none of a kind that
            is ahead has finished yet.
    """

    position: int
    eta_s: float | None


def claim_order(
    waiting: Sequence[QueuedUnit], running: Sequence[QueuedUnit], served: Mapping[str, datetime]
) -> list[QueuedUnit]:
    """`waiting` in the order in which workers would take them if nothing else came and nothing ended.

    The rules are those of `Queue.claim_next`.
    """
    shares, order = _Shares(running, served), []
    lines: dict[tuple[int, str], list[QueuedUnit]] = defaultdict(list)
    for unit in waiting:
        lines[unit.priority, unit.team_id].append(unit)
    for line in lines.values():
        line.sort(key=_seniority, reverse=True)
    heads = [_head(line, shares) for line in lines.values()]
    heapq.heapify(heads)
    while heads:
        priority, share, _, team_id = heapq.heappop(heads)
        line = lines[-priority, team_id]
        if share == shares.of(team_id):  # else the team took a unit of a higher priority since this head was made
            order.append(line.pop())
            shares.take(team_id)
        if line:
            heapq.heappush(heads, _head(line, shares))
    return order


class _Shares:
    """What each team has: how many units run, and which turn was its last."""

    def __init__(self, running: Sequence[QueuedUnit], served: Mapping[str, datetime]) -> None:
        times = sorted(set(served.values()))
        self._held = Counter(unit.team_id for unit in running)
        self._turns = {team_id: times.index(at) + 1 for team_id, at in served.items()}
        self._turn = len(times)

    def of(self, team_id: str) -> tuple[int, int]:
        """The smaller, the sooner it is this team's turn."""
        return self._held[team_id], self._turns.get(team_id, 0)

    def take(self, team_id: str) -> None:
        """One more unit."""
        self._turn += 1
        self._held[team_id] += 1
        self._turns[team_id] = self._turn


def places(
    waiting: Sequence[QueuedUnit],
    running: Sequence[QueuedUnit],
    served: Mapping[str, datetime],
    seconds: Mapping[str, float],
) -> dict[str, Place]:
    """The place of every job that has a unit waiting and none running.

    Args:
        waiting: see the Queue port.
        running: see there; as many are taken to run at a time from here on, and each to be half done.
        served: see there.
        seconds: what a unit of each kind takes.
    """
    busy, slots = {unit.job_id for unit in running}, max(1, len(running))
    ahead = _sum([seconds.get(unit.kind) for unit in running])
    work = None if ahead is None else ahead / 2
    found: dict[str, Place] = {}
    for unit in claim_order(waiting, running, served):
        if unit.job_id not in busy and unit.job_id not in found:
            found[unit.job_id] = Place(len(found) + 1, None if work is None else work / slots)
        takes = seconds.get(unit.kind)
        work = None if work is None or takes is None else work + takes
    return found


def _seniority(unit: QueuedUnit) -> tuple[object, ...]:
    return unit.created_at, unit.job_id, unit.position


def _head(line: Sequence[QueuedUnit], shares: _Shares) -> tuple[int, tuple[int, int], tuple[object, ...], str]:
    unit = line[-1]
    return -unit.priority, shares.of(unit.team_id), _seniority(unit), unit.team_id


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
