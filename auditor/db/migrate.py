"""Schema versions: migrate a database, or say that it needs it."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, inspect, text
from sqlalchemy.exc import SQLAlchemyError

import migrations
from auditor.db.unit_of_work import summary_of
from auditor.errors import StorageFailure

HEAD = "0008"
"""The revision that this version of the code needs; a higher one is of a newer version."""


def alembic_config(engine: Engine) -> Config:
    """Alembic's configuration for `engine`, without an ini file, so it also works from an installed package."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.attributes["engine"] = engine
    return config


def upgrade(engine: Engine) -> None:
    """Bring the schema to `HEAD`; does nothing when it is there. Raises StorageFailure when it is beyond."""
    found = revision(engine)
    if found == HEAD:
        return
    _refuse_newer(found)
    try:
        command.upgrade(alembic_config(engine), "head")
    except SQLAlchemyError as error:
        raise StorageFailure(f"the database could not be migrated: {summary_of(error)}") from error


def require_head(engine: Engine) -> None:
    """Raise StorageFailure when the schema is not at `HEAD`."""
    found = revision(engine)
    _refuse_newer(found)
    if found != HEAD:
        raise StorageFailure(
            f"the database schema is at '{found or 'nothing'}', this version needs '{HEAD}'",
            remedy="Run `auditor migrate` with AUDITOR_DATABASE_URL set.",
        )


def _refuse_newer(found: str | None) -> None:
    if found is not None and found > HEAD:
        raise StorageFailure(
            f"the database was made by a newer version: its schema is at '{found}', this version knows '{HEAD}'",
            remedy="Install that version again, or restore a backup that was made before it.",
        )


def revision(engine: Engine) -> str | None:
    """The schema's revision; None for an empty database."""
    try:
        with engine.connect() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return None
            found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
            return None if found is None else str(found)
    except SQLAlchemyError as error:
        raise StorageFailure(f"the database could not be used: {summary_of(error)}") from error
