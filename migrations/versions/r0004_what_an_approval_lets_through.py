"""What an approved baseline lets through: the findings that failed when it was approved; and its exact bytes.

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
    op.add_column("baselines", sa.Column("digest", sa.String(64), nullable=False, server_default=""))
    op.execute(
        "UPDATE baselines SET digest = COALESCE((SELECT MAX(digest) FROM reports "
        "WHERE reports.job_id = baselines.job_id AND reports.report_id = baselines.report_id), '')"
    )


def downgrade() -> None:
    """Back to 0003; approvals stay, what they let through is forgotten."""
    op.drop_column("baselines", "digest")
    op.drop_column("baselines", "findings")
