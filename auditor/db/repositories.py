"""Submissions, jobs, units and the outbox in SQL: one repository per noun, records in, records out."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, cast

from sqlalchemy import JSON, CursorResult, Select, String, delete, func, select, update
from sqlalchemy.orm import Session

from auditor.contracts.jobs import Failed, JobKind, JobState, Progress, UnitResult, UnitState
from auditor.contracts.manifest import Manifest
from auditor.contracts.submission import TargetCard
from auditor.db.account_models import AnswerRow, TrailRow
from auditor.db.locks import take_turns
from auditor.db.models import Base, JobRow, OutboxRow, SubmissionRow, UnitRow
from auditor.db.queue import claimed
from auditor.db.rows import job_of, json_of, unit_of
from auditor.db.tables import after_place
from auditor.errors import NotFound
from auditor.service.records import Job, Place, Submission, Unit
from auditor.service.states import LIVE, require_move, unit_sources

_TELLING = frozenset({AnswerRow.__tablename__, TrailRow.__tablename__})
"""Tables that say what was done, also with artifacts that were then let go."""
_SHA256 = re.compile(r"\b[0-9a-f]{64}\b")
REFERENCE = re.compile(r"[0-9a-f]{4,64}")
"""Ids are lower-case hexadecimal; four characters are the least a person may abbreviate one to."""


def _sources(after: UnitState) -> list[str]:
    return [state.value for state in unit_sources(after)]


def jobs_of(team_id: str) -> Any:
    """Ids of a team's jobs, for a condition on what belongs to them."""
    return select(JobRow.id).where(JobRow.team_id == team_id)


class SqlSubmissions:
    """Submissions in SQL."""

    def __init__(self, session: Session, team_id: str | None = None) -> None:
        self._session = session
        self._own: tuple[Any, ...] = () if team_id is None else (SubmissionRow.team_id == team_id,)

    def add(self, submission: Submission) -> None:
        """Insert a new one."""
        row = SubmissionRow(
            id=submission.id,
            name=submission.name,
            created_at=submission.created_at,
            manifest=submission.manifest.model_dump(mode="json"),
            target=submission.target.model_dump(mode="json"),
            inputs=dict(submission.inputs),
            team_id=submission.team_id,
        )
        self._session.add(row)
        self._session.flush()

    def get(self, submission_id: str) -> Submission:
        """By id."""
        query = select(SubmissionRow).where(SubmissionRow.id == submission_id, *self._own)
        row = self._session.scalars(query).first()
        if row is None:
            raise NotFound(f"there is no submission '{submission_id}'")
        return self._submission(row)

    def page(self, limit: int, after: Place | None = None) -> Sequence[Submission]:
        """Newest first."""
        query = select(SubmissionRow).where(*self._own)
        if after is not None:
            query = query.where(after_place(SubmissionRow.created_at, SubmissionRow.id, after))
        query = query.order_by(SubmissionRow.created_at.desc(), SubmissionRow.id.desc()).limit(limit)
        return [self._submission(row) for row in self._session.scalars(query)]

    def _submission(self, row: SubmissionRow) -> Submission:
        return Submission(
            id=row.id,
            name=row.name,
            created_at=row.created_at,
            manifest=Manifest.model_validate(row.manifest),
            target=TargetCard.model_validate(row.target),
            inputs=dict(row.inputs),
            team_id=row.team_id,
        )


class SqlJobs:
    """Jobs in SQL."""

    def __init__(self, session: Session, team_id: str | None = None) -> None:
        self._session = session
        self._own: tuple[Any, ...] = () if team_id is None else (JobRow.team_id == team_id,)

    def add(self, job: Job) -> None:
        """Insert a new one."""
        row = JobRow(
            id=job.id,
            kind=job.kind.value,
            name=job.name,
            submission_id=job.submission_id,
            fingerprint=job.fingerprint,
            payload=job.payload,
            created_at=job.created_at,
            state=job.state.value,
            cancel_requested=job.cancel_requested,
            error=json_of(job.error),
            finished_at=job.finished_at,
            team_id=job.team_id,
            priority=job.priority,
            submitter=job.submitter,
        )
        self._session.add(row)
        self._session.flush()

    def get(self, job_id: str, *, lock: bool = False) -> Job:
        """By id or unique first characters; `lock` holds the row (on SQLite, writers exclude each other anyway)."""
        query = select(JobRow).where(JobRow.id == job_id, *self._own)
        rows = self._session.scalars(query.with_for_update() if lock else query).all()
        if not rows and REFERENCE.fullmatch(job_id):
            query = select(JobRow).where(JobRow.id.startswith(job_id, autoescape=True), *self._own).limit(2)
            rows = self._session.scalars(query.with_for_update() if lock else query).all()
        if len(rows) > 1:
            raise NotFound(f"more than one job starts with '{job_id}'", remedy="Give more of the id.")
        if not rows:
            raise NotFound(f"there is no job '{job_id}'")
        return job_of(rows[0])

    def latest(self, limit: int) -> Sequence[Job]:
        """Newest first."""
        return self.page(limit)

    def page(
        self,
        limit: int,
        after: Place | None = None,
        *,
        kind: JobKind | None = None,
        name: str = "",
        states: Collection[JobState] | None = None,
    ) -> Sequence[Job]:
        """Newest first."""
        query = self._listed(kind, name, states)
        if after is not None:
            query = query.where(after_place(JobRow.created_at, JobRow.id, after))
        return [job_of(row) for row in self._session.scalars(query.limit(limit))]

    def unfinished(self, *, kind: JobKind | None = None, name: str = "") -> Sequence[Job]:
        """All that have not ended, newest first."""
        return [job_of(row) for row in self._session.scalars(self._listed(kind, name, LIVE))]

    def _listed(self, kind: JobKind | None, name: str, states: Collection[JobState] | None) -> Select[Any]:
        query = select(JobRow).where(*self._own)
        if kind is not None:
            query = query.where(JobRow.kind == kind.value)
        if name:
            query = query.where(func.lower(JobRow.name).contains(name.lower(), autoescape=True))
        if states is not None:
            query = query.where(JobRow.state.in_([state.value for state in states]))
        return query.order_by(JobRow.created_at.desc(), JobRow.id.desc())

    def with_fingerprint(self, fingerprint: str, team_id: str) -> Job | None:
        """The team's newest job for this work, which nobody else begins until the transaction ends."""
        take_turns(self._session, f"work {team_id} {fingerprint}")
        query = select(JobRow).where(JobRow.fingerprint == fingerprint, JobRow.team_id == team_id, *self._own)
        row = self._session.scalars(query.order_by(JobRow.created_at.desc(), JobRow.id).limit(1)).first()
        return None if row is None else job_of(row)

    def set_state(self, job_id: str, state: JobState, *, error: Failed | None, finished_at: datetime | None) -> None:
        """Move the job, if it may go there."""
        before = self._session.scalars(select(JobRow.state).where(JobRow.id == job_id).with_for_update()).one()
        require_move(job_id, JobState(before), state)
        self._update(job_id, state=state.value, error=json_of(error), finished_at=finished_at)

    def set_cancel_requested(self, job_id: str, requested: bool) -> None:
        """Set or take back the wish to stop."""
        self._update(job_id, cancel_requested=requested)

    def set_priority(self, job_id: str, priority: int) -> None:
        """Change its place among those that wait."""
        self._update(job_id, priority=priority)

    def _update(self, job_id: str, **values: Any) -> None:
        self._session.execute(update(JobRow).where(JobRow.id == job_id, *self._own).values(**values))


class SqlUnits:
    """Units in SQL. Every change of a claim is one UPDATE with its condition in the WHERE clause."""

    def __init__(self, session: Session, team_id: str | None = None) -> None:
        self._session = session
        self._own: tuple[Any, ...] = () if team_id is None else (UnitRow.job_id.in_(jobs_of(team_id)),)

    def add(self, units: Sequence[Unit]) -> None:
        """Insert new ones."""
        for unit in units:
            row = UnitRow(
                id=unit.id,
                job_id=unit.job_id,
                position=unit.position,
                key=unit.spec.key,
                spec=unit.spec.model_dump(mode="json"),
                state=unit.state.value,
                attempt=unit.attempt,
            )
            self._session.add(row)
        self._session.flush()

    def get(self, unit_id: str) -> Unit:
        """By id."""
        query = select(UnitRow).where(UnitRow.id == unit_id, *self._own)
        row = self._session.scalars(query.execution_options(populate_existing=True)).first()
        if row is None:
            raise NotFound(f"there is no unit '{unit_id}'")
        return unit_of(row)

    def of_job(self, job_id: str) -> Sequence[Unit]:
        """All units of a job, in the order they were made."""
        query = select(UnitRow).where(UnitRow.job_id == job_id, *self._own).order_by(UnitRow.position)
        return [unit_of(row) for row in self._session.scalars(query.execution_options(populate_existing=True))]

    def claim(self, unit_id: str, *, worker: str, now: datetime, lease_until: datetime) -> Unit | None:
        """Take a pending unit, atomically."""
        waits = (UnitRow.id == unit_id, UnitRow.state.in_(_sources(UnitState.RUNNING)), *self._own)
        change = update(UnitRow).where(*waits).values(**claimed(worker=worker, now=now, until=lease_until))
        return self.get(unit_id) if self._changed(change) else None

    def renew(self, unit: Unit, *, now: datetime, lease_until: datetime, progress: Progress | None) -> bool:
        """Heartbeat of a claim."""
        values = {"lease_until": lease_until, "heartbeat_at": now, "progress": json_of(progress)}
        renewed = update(UnitRow).where(
            UnitRow.id == unit.id, UnitRow.attempt == unit.attempt, UnitRow.state == UnitState.RUNNING.value
        )
        return self._changed(renewed.values(**values))

    def complete(self, unit: Unit, result: UnitResult) -> bool:
        """Mark done."""
        return self._settle(unit, UnitState.DONE, result=json_of(result))

    def fail(self, unit: Unit, error: Failed) -> bool:
        """Mark failed."""
        return self._settle(unit, UnitState.FAILED, error=json_of(error))

    def release(self, unit: Unit, *, error: Failed | None = None, not_before: datetime | None = None) -> bool:
        """Give a claimed or failed unit back as pending."""
        reason = {} if error is None else {"error": json_of(error)}
        change = self._held(unit, UnitState.PENDING).values(
            state=UnitState.PENDING.value, worker=None, lease_until=not_before, progress=None, **reason
        )
        return self._changed(change)

    def expired(self, now: datetime) -> Sequence[Unit]:
        """Running units whose lease ran out."""
        query = select(UnitRow).where(UnitRow.state == UnitState.RUNNING.value, UnitRow.lease_until < now, *self._own)
        return [unit_of(row) for row in self._session.scalars(query.order_by(UnitRow.job_id, UnitRow.position))]

    def finished(self, kind: JobKind, *, team_id: str, key: str) -> Sequence[Unit]:
        """Finished units of a team's jobs, those of the oldest job first."""
        query = (
            select(UnitRow)
            .join(JobRow, JobRow.id == UnitRow.job_id)
            .where(JobRow.team_id == team_id, JobRow.kind == kind.value, *self._own)
            .where(UnitRow.state == UnitState.DONE.value, UnitRow.key.endswith(key, autoescape=True))
            .order_by(JobRow.created_at, JobRow.id, UnitRow.position)
        )
        return [unit_of(row) for row in self._session.scalars(query)]

    def _settle(self, unit: Unit, state: UnitState, **values: Any) -> bool:
        change = self._held(unit, state).values(state=state.value, lease_until=None, progress=None, **values)
        return self._changed(change)

    def _held(self, unit: Unit, after: UnitState) -> Any:
        """An update of this claim, while the unit is in a state from which it may go to `after`."""
        return update(UnitRow).where(
            UnitRow.id == unit.id, UnitRow.attempt == unit.attempt, UnitRow.state.in_(_sources(after)), *self._own
        )

    def _changed(self, change: Any) -> bool:
        result = self._session.execute(change.execution_options(synchronize_session=False))
        return cast(CursorResult[Any], result).rowcount == 1


class SqlOutbox:
    """Units to announce, in SQL."""

    def __init__(self, session: Session, team_id: str | None = None) -> None:
        self._session = session
        self._own: tuple[Any, ...] = () if team_id is None else (UnitRow.job_id.in_(jobs_of(team_id)),)

    def add(self, unit_ids: Sequence[str]) -> None:
        """Remember to send these."""
        self._session.add_all([OutboxRow(unit_id=unit_id) for unit_id in unit_ids])
        self._session.flush()

    def pending(self) -> Sequence[tuple[int, str]]:
        """Not yet sent, and not being sent by another process."""
        query = select(OutboxRow).order_by(OutboxRow.id).with_for_update(skip_locked=True)
        if self._own:
            query = query.where(OutboxRow.unit_id.in_(select(UnitRow.id).where(*self._own)))
        return [(row.id, row.unit_id) for row in self._session.scalars(query)]

    def remove(self, entry: int) -> None:
        """It was sent."""
        self._session.execute(delete(OutboxRow).where(OutboxRow.id == entry))


class SqlReferences:
    """Mentions of artifacts, in SQL."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def mentioned(self) -> frozenset[str]:
        """Every sha256 in any text or JSON column of any other table, so that a new one cannot be forgotten here."""
        found: set[str] = set()
        for table in (table for table in Base.metadata.sorted_tables if table.name not in _TELLING):
            columns = [column for column in table.columns if isinstance(column.type, String | JSON)]
            for row in self._session.execute(select(*columns).execution_options(yield_per=500)) if columns else ():
                found.update(_SHA256.findall(json.dumps(list(row), default=str)))
        return frozenset(found)
