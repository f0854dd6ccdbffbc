"""Where jobs and units can be, and every move between: one table each, obeyed by every database."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from auditor.contracts.jobs import JobState, UnitState
from auditor.errors import IllegalMove

JOB_MOVES: Mapping[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.DONE, JobState.FAILED, JobState.CANCELLED}),
    JobState.RUNNING: frozenset({JobState.DONE, JobState.FAILED, JobState.CANCELLED}),
    JobState.DONE: frozenset(),
    JobState.FAILED: frozenset({JobState.QUEUED, JobState.RUNNING}),
    JobState.CANCELLED: frozenset({JobState.QUEUED}),
}
"""A job runs from its first claim to its end. Resumed, it waits again; or it runs, where a unit of it still does;
or it is done, where its last unit ended after it had failed."""

UNIT_MOVES: Mapping[UnitState, frozenset[UnitState]] = {
    UnitState.PENDING: frozenset({UnitState.RUNNING}),
    UnitState.RUNNING: frozenset({UnitState.DONE, UnitState.FAILED, UnitState.PENDING}),
    UnitState.DONE: frozenset(),
    UnitState.FAILED: frozenset({UnitState.PENDING}),
}
"""A unit runs under a claim, which ends it or gives it back; what failed runs again when its job is resumed."""

TERMINAL = frozenset({JobState.DONE, JobState.FAILED, JobState.CANCELLED})
"""Nothing of such a job runs until somebody resumes it."""
LIVE = frozenset(JobState) - TERMINAL

REMEMBERED = timedelta(hours=1)
"""How long a job that has ended counts as its team having been served."""


def require_move(job_id: str, before: JobState, after: JobState) -> None:
    """Raise IllegalMove unless a job may go from `before` to `after`."""
    if after not in JOB_MOVES[before]:
        legal = ", ".join(sorted(JOB_MOVES[before])) or "nothing"
        raise IllegalMove(f"job '{job_id}' is {before} and cannot become {after}; from there it can become {legal}")


def unit_sources(after: UnitState) -> tuple[UnitState, ...]:
    """The states that a unit may come from to be in `after`."""
    return tuple(before for before, targets in UNIT_MOVES.items() if after in targets)
