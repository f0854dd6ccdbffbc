"""The queue in SQL: whose turn it is, in one transaction, however many workers ask at once."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Float, Select, String, and_, case, cast, func, or_, select, update
from sqlalchemy.orm import Session

from auditor.contracts.jobs import UnitState
from auditor.contracts.policy import Verdict
from auditor.db.locks import take_turns
from auditor.db.models import OF_THE_JOB, JobRow, OutboxRow, ReportRow, UnitRow
from auditor.db.rows import unit_of
from auditor.risk.rules import RULES
from auditor.service.records import QueuedUnit, Statistics, Unit
from auditor.service.states import LIVE, REMEMBERED

_CLAIM = "claim"
"""Claims of all workers of one PostgreSQL database take this lock in turn: a share is counted, then taken."""
RECENT = 500
"""Finished units from which typical times are taken."""

_KIND = cast(UnitRow.spec["kind"].as_string(), String)
_LIVE = [state.value for state in LIVE]


class SqlQueue:
    """The queue in SQL."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def claim_next(self, *, worker: str, now: datetime, lease_until: datetime, team_units: int) -> Unit | None:
        """Take the unit whose turn it is."""
        take_turns(self._session, _CLAIM)
        shares = (
            select(JobRow.team_id, func.count().label("units"))
            .join(UnitRow, UnitRow.job_id == JobRow.id)
            .where(_under_lease(now))
            .group_by(JobRow.team_id)
            .subquery()
        )
        served = _served(now).subquery()
        held = func.coalesce(shares.c.units, 0)
        turn = (held, served.c.at.asc().nulls_first())
        query = (
            select(UnitRow.id)
            .join(JobRow, JobRow.id == UnitRow.job_id)
            .outerjoin(shares, shares.c.team_id == JobRow.team_id)
            .outerjoin(served, served.c.team_id == JobRow.team_id)
            .where(_may_run(now))
            .order_by(JobRow.priority.desc(), *turn, JobRow.created_at, JobRow.id, UnitRow.position)
            .limit(1)
            .with_for_update(of=UnitRow, skip_locked=True, key_share=True)
        )
        if team_units:
            query = query.where(held < team_units)
        unit_id = self._session.scalars(query).first()
        if unit_id is None:
            return None
        change = (
            update(UnitRow).where(UnitRow.id == unit_id).values(**claimed(worker=worker, now=now, until=lease_until))
        )
        self._session.execute(change.execution_options(synchronize_session=False))
        return unit_of(self._session.get_one(UnitRow, unit_id, populate_existing=True))

    def waiting(self, now: datetime) -> Sequence[QueuedUnit]:
        """Units that wait for a worker."""
        return self._queued(_may_run(now))

    def running(self, now: datetime) -> Sequence[QueuedUnit]:
        """Units under a live lease."""
        return self._queued(_under_lease(now))

    def served(self, now: datetime) -> Mapping[str, datetime]:
        """When each team was last served."""
        rows = self._session.execute(_served(now)).all()
        return {team_id: at for team_id, at in rows if at is not None}

    def typical_seconds(self) -> Mapping[str, float]:
        """Medians over the last finished units."""
        query = (
            select(_KIND, cast(UnitRow.result["seconds"].as_float(), Float))
            .where(UnitRow.state == UnitState.DONE.value)
            .order_by(UnitRow.heartbeat_at.desc())
            .limit(RECENT)
        )
        found: dict[str, list[float]] = defaultdict(list)
        for kind, seconds in self._session.execute(query):
            found[kind].append(seconds)
        return {kind: statistics.median(values) for kind, values in found.items()}

    def statistics(self, now: datetime) -> Statistics:
        """Counts of everything."""
        units = self._table(select(_KIND, UnitRow.state, func.count()).group_by(_KIND, UnitRow.state))
        seconds = (
            select(_KIND, func.sum(cast(UnitRow.result["seconds"].as_float(), Float)))
            .where(UnitRow.state == UnitState.DONE.value)
            .group_by(_KIND)
        )
        stalled = select(func.count()).where(UnitRow.state == UnitState.RUNNING.value, ~_under_lease(now))
        redone = select(func.coalesce(func.sum(UnitRow.attempt - 1), 0)).where(UnitRow.attempt > 1)
        oldest = select(func.min(JobRow.created_at)).join(UnitRow, UnitRow.job_id == JobRow.id).where(_may_run(now))
        verdict = case(
            (
                and_(ReportRow.verdict == Verdict.PASS.value, func.coalesce(ReportRow.rules, 0) < RULES),
                Verdict.INCONCLUSIVE.value,
            ),
            else_=func.coalesce(ReportRow.verdict, ""),
        )
        return Statistics(
            jobs=self._table(
                select(JobRow.kind, JobRow.state, JobRow.team_id, func.count()).group_by(
                    JobRow.kind, JobRow.state, JobRow.team_id
                )
            ),
            jobs_running=self._number(select(func.count(UnitRow.job_id.distinct())).where(_under_lease(now))),
            units=units,
            units_stalled=self._number(stalled),
            unit_seconds={kind: total for (kind,), total in self._table(seconds).items()},
            units_redone=self._number(redone),
            oldest_waiting=self._session.scalar(oldest),
            outbox=self._number(select(func.count()).select_from(OutboxRow)),
            reports=self._table(
                select(ReportRow.kind, verdict, func.count()).where(OF_THE_JOB).group_by(ReportRow.kind, verdict)
            ),
        )

    def _queued(self, condition: Any) -> Sequence[QueuedUnit]:
        query = (
            select(UnitRow.id, JobRow.id, JobRow.team_id, _KIND, JobRow.priority, JobRow.created_at, UnitRow.position)
            .join(JobRow, JobRow.id == UnitRow.job_id)
            .where(condition)
        )
        return [QueuedUnit(*row) for row in self._session.execute(query)]

    def _table(self, query: Any) -> dict[Any, Any]:
        """Rows to `{all columns but the last: the last}`."""
        rows = [tuple(row) for row in self._session.execute(query)]
        return {row[:-1]: row[-1] for row in rows}

    def _number(self, query: Select[Any]) -> int:
        return int(self._session.scalar(query) or 0)


def claimed(*, worker: str, now: datetime, until: datetime) -> dict[str, Any]:
    """The columns of a unit that is claimed now."""
    return {
        "state": UnitState.RUNNING.value,
        "attempt": UnitRow.attempt + 1,
        "worker": worker,
        "lease_until": until,
        "heartbeat_at": now,
        "progress": None,
        "error": None,
    }


def _served(now: datetime) -> Any:
    """Team and time of its last heartbeat, over jobs that go on or have just ended: few, however many are stored."""
    return (
        select(JobRow.team_id, func.max(UnitRow.heartbeat_at).label("at"))
        .join(UnitRow, UnitRow.job_id == JobRow.id)
        .where(or_(JobRow.state.in_(_LIVE), JobRow.finished_at >= now - REMEMBERED))
        .group_by(JobRow.team_id)
    )


def _under_lease(now: datetime) -> Any:
    return and_(UnitRow.state == UnitState.RUNNING.value, UnitRow.lease_until >= now)


def _may_run(now: datetime) -> Any:
    return and_(
        UnitRow.state == UnitState.PENDING.value,
        or_(UnitRow.lease_until.is_(None), UnitRow.lease_until <= now),
        JobRow.state.in_(_LIVE),
        JobRow.cancel_requested.is_(False),
    )
