"""The tables of people and of what teams own beside audits; columns are the fields of `auditor.service.accounts`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from auditor.db.models import Base, JsonColumn, UtcDateTime


class UserRow(Base):
    """A person."""

    __tablename__ = "users"
    __table_args__ = (
        UniqueConstraint("team_id", "name"),
        Index(None, "team_id", "email", unique=True),
        Index(None, "team_id", "issuer", "subject", unique=True),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    team_id: Mapped[str] = mapped_column(String(32), ForeignKey("teams.id"))
    name: Mapped[str] = mapped_column(String(100))
    role: Mapped[str] = mapped_column(String(20))
    password_hash: Mapped[str | None] = mapped_column(String(200))
    disabled: Mapped[bool]
    failures: Mapped[int]
    locked_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    email: Mapped[str | None] = mapped_column(String(254))
    issuer: Mapped[str | None] = mapped_column(String(500))
    subject: Mapped[str | None] = mapped_column(String(255))


class TokenRow(Base):
    """An API token; its secret is not stored."""

    __tablename__ = "tokens"
    __table_args__ = (UniqueConstraint("digest"), Index(None, "team_id", "created_at"))

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    team_id: Mapped[str] = mapped_column(String(32), ForeignKey("teams.id"))
    user_id: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    name: Mapped[str] = mapped_column(String(100))
    digest: Mapped[str] = mapped_column(String(64))
    scopes: Mapped[list[str]] = mapped_column(JsonColumn)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)
    last_used_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class SessionRow(Base):
    """A sign-in; the cookie's secret is not stored."""

    __tablename__ = "sessions"
    __table_args__ = (UniqueConstraint("digest"), Index(None, "user_id"))

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    team_id: Mapped[str] = mapped_column(String(32), ForeignKey("teams.id"))
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    digest: Mapped[str] = mapped_column(String(64))
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)


class TrailRow(Base):
    """A line of the audit log. No foreign key to a user: what was done stays said."""

    __tablename__ = "trail"
    __table_args__ = (Index(None, "team_id", "created_at"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    team_id: Mapped[str] = mapped_column(String(32), ForeignKey("teams.id"))
    who: Mapped[str] = mapped_column(String(100))
    what: Mapped[str] = mapped_column(String(50))
    subject: Mapped[str] = mapped_column(Text)
    detail: Mapped[dict[str, Any]] = mapped_column(JsonColumn)


class UploadRow(Base):
    """A file that is being sent."""

    __tablename__ = "uploads"
    __table_args__ = (Index(None, "team_id", "created_at"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    team_id: Mapped[str] = mapped_column(String(32), ForeignKey("teams.id"))
    name: Mapped[str] = mapped_column(String(200))
    size: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    created_by: Mapped[str] = mapped_column(String(100))
    received: Mapped[int] = mapped_column(BigInteger)
    complete: Mapped[bool]


class DataSetRow(Base):
    """A named data set."""

    __tablename__ = "data_sets"
    __table_args__ = (UniqueConstraint("team_id", "name"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    team_id: Mapped[str] = mapped_column(String(32), ForeignKey("teams.id"))
    name: Mapped[str] = mapped_column(String(100))
    digests: Mapped[dict[str, str]] = mapped_column(JsonColumn)
    size: Mapped[int] = mapped_column(BigInteger)
    created_by: Mapped[str] = mapped_column(String(100))


class PolicyRow(Base):
    """A named policy."""

    __tablename__ = "policies"
    __table_args__ = (UniqueConstraint("team_id", "name"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    team_id: Mapped[str] = mapped_column(String(32), ForeignKey("teams.id"))
    name: Mapped[str] = mapped_column(String(100))
    policy: Mapped[dict[str, Any]] = mapped_column(JsonColumn)
    created_by: Mapped[str] = mapped_column(String(100))


class BaselineRow(Base):
    """The approved audit of a model."""

    __tablename__ = "baselines"
    __table_args__ = (UniqueConstraint("team_id", "name"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    team_id: Mapped[str] = mapped_column(String(32), ForeignKey("teams.id"))
    name: Mapped[str] = mapped_column(String(100))
    report_id: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    approver: Mapped[str] = mapped_column(String(100))
    findings: Mapped[dict[str, str]] = mapped_column(JsonColumn, server_default="{}")
    digest: Mapped[str] = mapped_column(String(64), server_default="")


class WaiverRow(Base):
    """A finding that is let through for a while."""

    __tablename__ = "waivers"
    __table_args__ = (Index(None, "team_id", "model"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    team_id: Mapped[str] = mapped_column(String(32), ForeignKey("teams.id"))
    finding: Mapped[str] = mapped_column(String(300))
    model: Mapped[str] = mapped_column(String(100))
    reason: Mapped[str] = mapped_column(Text)
    approver: Mapped[str] = mapped_column(String(100))
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)
    up_to: Mapped[str] = mapped_column(String(20))


class AnswerRow(Base):
    """What a request with an Idempotency-Key was answered."""

    __tablename__ = "answers"
    __table_args__ = (Index(None, "created_at"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    team_id: Mapped[str] = mapped_column(String(32), ForeignKey("teams.id"))
    digest: Mapped[str] = mapped_column(String(64))
    status: Mapped[int | None]
    body: Mapped[str] = mapped_column(Text)
