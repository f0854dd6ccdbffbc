"""Who may sign in as a person through an OpenID Connect provider.

Revision: 0005, after 0004.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

COLUMNS = {"email": 254, "issuer": 500, "subject": 255}
UNIQUE = (("team_id", "email"), ("team_id", "issuer", "subject"))


def upgrade() -> None:
    """To this revision; the people who are there sign in as before."""
    for name, length in COLUMNS.items():
        op.add_column("users", sa.Column(name, sa.String(length)))
    for columns in UNIQUE:
        op.create_index(op.f(f"ix_users_{'_'.join(columns)}"), "users", columns, unique=True)


def downgrade() -> None:
    """Back to 0004; people stay, and who they are at a provider is forgotten."""
    for columns in UNIQUE:
        op.drop_index(op.f(f"ix_users_{'_'.join(columns)}"), "users")
    for name in reversed(COLUMNS):
        op.drop_column("users", name)
