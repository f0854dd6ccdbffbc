"""The database connection: one engine per process, with SQLite set up to be safe and PostgreSQL left as it is."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from auditor.errors import InvalidInput, StorageFailure

BUSY_TIMEOUT_MS = 30_000
"""How long a SQLite writer waits for another one."""


def build_engine(url: str) -> Engine:
    """An engine for `url`. Plain `postgresql://` means psycopg 3; a SQLite file's folder is created.

    Raises:
        InvalidInput: the address cannot be read, or names another database.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise InvalidInput(
            "the database address is not a URL", remedy="Set AUDITOR_DATABASE_URL to postgresql://user@host/name."
        ) from None
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    backend = parsed.get_backend_name()
    if backend not in ("sqlite", "postgresql"):
        raise InvalidInput(
            f"the database address names '{backend}'; known: postgresql, sqlite",
            remedy="Set AUDITOR_DATABASE_URL to a PostgreSQL address, or unset it for SQLite.",
        )
    if backend == "postgresql":
        return create_engine(parsed, pool_pre_ping=True)
    if parsed.database:
        _make_folder(Path(parsed.database).parent)
    engine = create_engine(parsed)
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_immediately)
    return engine


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageFailure(f"the data folder {folder} cannot be made: {error.strerror}") from error


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    """Foreign keys on; write-ahead log, so readers do not wait; and our own BEGIN instead of the driver's."""
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS:d}")
    _use_write_ahead_log(cursor)
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _use_write_ahead_log(cursor: sqlite3.Cursor) -> None:
    """Switch the file's journal, waiting as long as a writer would: the busy timeout does not cover this switch."""
    give_up = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.02)


def _begin_immediately(connection: Connection) -> None:
    """Take the write lock at once: a transaction that reads first and writes later could otherwise not be completed."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")
