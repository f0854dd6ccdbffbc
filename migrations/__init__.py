"""Alembic migrations: one history that builds SQLite and PostgreSQL alike."""
