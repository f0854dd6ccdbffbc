"""Alembic's entry: migrates the engine it is given, or the one that AUDITOR_DATABASE_URL names."""

from __future__ import annotations

from alembic import context

from auditor.db.engine import build_engine
from auditor.db.models import Base
from auditor.settings import Settings


def run() -> None:
    """Migrate inside one transaction, which both databases can roll back whole."""
    engine = context.config.attributes.get("engine") or build_engine(Settings().effective_database_url)
    with engine.connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            transactional_ddl=True,
            compare_type=True,
            render_as_batch=connection.dialect.name == "sqlite",
        )
        with context.begin_transaction():
            context.run_migrations()


run()
