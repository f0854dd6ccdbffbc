"""Whether the policy behind a report is looser than the built-in one.

Revision: 0007, after 0006.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """To this revision; of the reports that are there it is not known."""
    op.add_column("reports", sa.Column("looser_policy", sa.Boolean(), nullable=True))


def downgrade() -> None:
    """Back to 0006; the reports themselves go on saying it."""
    op.drop_column("reports", "looser_policy")
