"""Who submitted a job.

Revision: 0006, after 0005.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """To this revision; of the jobs that are there nobody is named."""
    op.add_column("jobs", sa.Column("submitter", sa.String(100), nullable=False, server_default=""))


def downgrade() -> None:
    """Back to 0005; who submitted stands in the audit log alone."""
    op.drop_column("jobs", "submitter")
