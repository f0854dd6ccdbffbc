"""Which rules gave the verdict that lists show of a report.

Revision: 0008, after 0007.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """To this revision; the reports that are there are judged by today's rules afterwards."""
    op.add_column("reports", sa.Column("rules", sa.Integer(), nullable=True))


def downgrade() -> None:
    """Back to 0007; the verdicts stay as they are."""
    op.drop_column("reports", "rules")
