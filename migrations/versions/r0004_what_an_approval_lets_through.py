"""What an approved baseline lets through: the findings that failed when it was approved, and their levels.

Revision: 0004, after 0003.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

Json = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    """To this revision; what was approved before lets nothing through until it is approved again."""
    op.add_column("baselines", sa.Column("findings", Json, nullable=False, server_default="{}"))


def downgrade() -> None:
    """Back to 0003; approvals stay, what they let through is forgotten."""
    op.drop_column("baselines", "findings")
