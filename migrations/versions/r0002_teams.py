"""Teams own submissions and jobs; jobs have a priority. What was there before belongs to the team `local`.

Revision: 0002, after 0001.

`team_id` has no foreign key: SQLite cannot add one to a table with rows without rebuilding it and all that refer to it.
"""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

LOCAL = "local"


def upgrade() -> None:
    """To this revision."""
    teams = op.create_table(
        "teams",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_teams")),
        sa.UniqueConstraint("name", name=op.f("uq_teams_name")),
    )
    op.bulk_insert(teams, [{"id": LOCAL, "name": LOCAL, "created_at": datetime.now(UTC)}])
    for table in ("submissions", "jobs"):
        op.add_column(table, sa.Column("team_id", sa.String(32), nullable=False, server_default=LOCAL))
        op.create_index(op.f(f"ix_{table}_team_id_created_at"), table, ["team_id", "created_at"])
    op.add_column("jobs", sa.Column("priority", sa.Integer(), nullable=False, server_default="0"))


def downgrade() -> None:
    """Back to 0001; teams are forgotten, what they own stays."""
    op.drop_column("jobs", "priority")
    for table in ("submissions", "jobs"):
        op.drop_index(op.f(f"ix_{table}_team_id_created_at"), table)
        op.drop_column(table, "team_id")
    op.drop_table("teams")
