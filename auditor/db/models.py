"""The tables. Every name of an index or constraint follows one convention, so migrations are the same everywhere."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, DateTime, ForeignKey, Index, Integer, MetaData, String, Text, UniqueConstraint, or_
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

from auditor.contracts.jobs import JobKind
from auditor.service.pipeline import FINISH
from auditor.service.records import LOCAL_TEAM

JsonColumn = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


class UtcDateTime(TypeDecorator[datetime]):
    """A timestamp that is always UTC and timezone-aware in Python, also on SQLite, which keeps no time zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To the database: refuses a naive time."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a time zone cannot be stored")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """From the database."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Base of every table."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class TeamRow(Base):
    """A tenant: nothing of one team is shown to another."""

    __tablename__ = "teams"
    __table_args__ = (UniqueConstraint("name"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    pictures_days: Mapped[int | None]
    private_data_days: Mapped[int | None]


class SubmissionRow(Base):
    """A checked submission."""

    __tablename__ = "submissions"
    __table_args__ = (Index(None, "team_id", "created_at"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    manifest: Mapped[dict[str, Any]] = mapped_column(JsonColumn)
    target: Mapped[dict[str, Any]] = mapped_column(JsonColumn)
    inputs: Mapped[dict[str, str]] = mapped_column(JsonColumn)
    team_id: Mapped[str] = mapped_column(String(32), server_default=LOCAL_TEAM)


class JobRow(Base):
    """A job."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index(None, "fingerprint", "created_at"),
        Index(None, "created_at"),
        Index(None, "team_id", "created_at"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    name: Mapped[str] = mapped_column(String(100))
    submission_id: Mapped[str] = mapped_column(ForeignKey("submissions.id"), index=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    payload: Mapped[dict[str, Any]] = mapped_column(JsonColumn)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    state: Mapped[str] = mapped_column(String(20))
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    error: Mapped[dict[str, Any] | None] = mapped_column(JsonColumn)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    team_id: Mapped[str] = mapped_column(String(32), server_default=LOCAL_TEAM)
    priority: Mapped[int] = mapped_column(Integer, server_default="0")
    submitter: Mapped[str] = mapped_column(String(100), server_default="")


class UnitRow(Base):
    """A unit of a job; `state`, `attempt`, `worker`, `lease_until` and `heartbeat_at` are its claim."""

    __tablename__ = "units"
    __table_args__ = (UniqueConstraint("job_id", "key"), Index(None, "state", "lease_until"))

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    position: Mapped[int] = mapped_column(Integer)
    key: Mapped[str] = mapped_column(Text)
    spec: Mapped[dict[str, Any]] = mapped_column(JsonColumn)
    state: Mapped[str] = mapped_column(String(20))
    attempt: Mapped[int] = mapped_column(Integer, default=0)
    worker: Mapped[str | None] = mapped_column(String(200))
    lease_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    heartbeat_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    progress: Mapped[dict[str, Any] | None] = mapped_column(JsonColumn)
    result: Mapped[dict[str, Any] | None] = mapped_column(JsonColumn)
    error: Mapped[dict[str, Any] | None] = mapped_column(JsonColumn)


class ReportRow(Base):
    """A report that a unit left; its text and pictures are artifacts."""

    __tablename__ = "reports"
    __table_args__ = (UniqueConstraint("job_id", "unit_key"), Index(None, "report_id"), Index(None, "created_at"))

    id: Mapped[int] = mapped_column(primary_key=True)
    report_id: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    unit_key: Mapped[str] = mapped_column(Text)
    kind: Mapped[str] = mapped_column(String(20))
    name: Mapped[str] = mapped_column(String(100))
    digest: Mapped[str] = mapped_column(String(64))
    gallery_digest: Mapped[str | None] = mapped_column(String(64))
    verdict: Mapped[str | None] = mapped_column(String(20))
    level: Mapped[str | None] = mapped_column(String(20))
    looser_policy: Mapped[bool | None]
    rules: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


OF_THE_JOB = or_(ReportRow.kind == JobKind.REPAIR.value, ReportRow.unit_key == FINISH)
"""As `StoredReport.is_of_job`."""


class OutboxRow(Base):
    """A unit that waits to be announced to the queue."""

    __tablename__ = "outbox"

    id: Mapped[int] = mapped_column(primary_key=True)
    unit_id: Mapped[str] = mapped_column(ForeignKey("units.id"), index=True)
