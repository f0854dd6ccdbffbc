"""People, tokens, sessions, the audit log, and what teams own: uploads, data sets, policies, baselines, waivers.

Revision: 0003, after 0002.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

Json = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
Time = sa.DateTime(timezone=True)
TABLES = (
    "users", "tokens", "sessions", "trail", "uploads", "data_sets", "policies", "baselines", "waivers", "answers",
)  # fmt: skip
"""In the order in which they refer to each other."""


def _owned(table: str, *columns: sa.schema.SchemaItem, key: int = 32) -> None:
    """A table of a team's rows."""
    op.create_table(
        table,
        sa.Column("id", sa.String(key), nullable=False),
        sa.Column("created_at", Time, nullable=False),
        sa.Column("team_id", sa.String(32), nullable=False),
        *columns,
        sa.PrimaryKeyConstraint("id", name=op.f(f"pk_{table}")),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f(f"fk_{table}_team_id_teams")),
    )


def _text(name: str, length: int = 100, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.String(length), nullable=nullable)


def _unique(table: str, *columns: str) -> sa.UniqueConstraint:
    return sa.UniqueConstraint(*columns, name=op.f(f"uq_{table}_{'_'.join(columns)}"))


def _refers(table: str, column: str, to: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [f"{to}.id"], name=op.f(f"fk_{table}_{column}_{to}"))


def upgrade() -> None:
    """To this revision."""
    op.add_column("teams", sa.Column("pictures_days", sa.Integer()))
    op.add_column("teams", sa.Column("private_data_days", sa.Integer()))
    _people()
    _owned(
        "trail", _text("who"), _text("what", 50), sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("detail", Json, nullable=False),
    )  # fmt: skip
    _owned(
        "uploads", _text("name", 200), sa.Column("size", sa.BigInteger(), nullable=False), _text("sha256", 64),
        _text("created_by"), sa.Column("received", sa.BigInteger(), nullable=False),
        sa.Column("complete", sa.Boolean(), nullable=False),
    )  # fmt: skip
    _owned(
        "data_sets", _text("name"), sa.Column("digests", Json, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False), _text("created_by"),
        _unique("data_sets", "team_id", "name"),
    )  # fmt: skip
    _owned(
        "policies", _text("name"), sa.Column("policy", Json, nullable=False), _text("created_by"),
        _unique("policies", "team_id", "name"),
    )  # fmt: skip
    _owned(
        "baselines", _text("name"), _text("report_id", 64), _text("job_id", 32), _text("approver"),
        _unique("baselines", "team_id", "name"), _refers("baselines", "job_id", "jobs"),
    )  # fmt: skip
    _owned(
        "waivers", _text("finding", 300), _text("model"), sa.Column("reason", sa.Text(), nullable=False),
        _text("approver"), sa.Column("expires_at", Time, nullable=False), _text("up_to", 20),
    )  # fmt: skip
    _owned(
        "answers", _text("digest", 64), sa.Column("status", sa.Integer()), sa.Column("body", sa.Text(), nullable=False),
        key=64,
    )  # fmt: skip
    for table in ("tokens", "trail", "uploads"):
        op.create_index(op.f(f"ix_{table}_team_id_created_at"), table, ["team_id", "created_at"])
    op.create_index(op.f("ix_sessions_user_id"), "sessions", ["user_id"])
    op.create_index(op.f("ix_waivers_team_id_model"), "waivers", ["team_id", "model"])
    op.create_index(op.f("ix_answers_created_at"), "answers", ["created_at"])


def _people() -> None:
    _owned(
        "users", _text("name"), _text("role", 20), _text("password_hash", 200, nullable=True),
        sa.Column("disabled", sa.Boolean(), nullable=False), sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("locked_until", Time), _unique("users", "team_id", "name"),
    )  # fmt: skip
    _owned(
        "tokens", _text("user_id", 32, nullable=True), _text("name"), _text("digest", 64),
        sa.Column("scopes", Json, nullable=False), sa.Column("expires_at", Time, nullable=False),
        sa.Column("last_used_at", Time), sa.Column("revoked_at", Time),
        _unique("tokens", "digest"), _refers("tokens", "user_id", "users"),
    )  # fmt: skip
    _owned(
        "sessions", _text("user_id", 32), _text("digest", 64), sa.Column("expires_at", Time, nullable=False),
        _unique("sessions", "digest"), _refers("sessions", "user_id", "users"),
    )  # fmt: skip


def downgrade() -> None:
    """Back to 0002; people and what they decided are forgotten, audits stay."""
    for table in reversed(TABLES):
        op.drop_table(table)
    op.drop_column("teams", "private_data_days")
    op.drop_column("teams", "pictures_days")
