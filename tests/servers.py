"""Real PostgreSQL and Redis for tests: given addresses, else installed binaries, else the server wheels."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import tempfile
from collections.abc import Iterator

from auditor.testing.servers import NoServer, PostgresServer, RedisServer, postgres_binaries, redis_binary

__all__ = ["NoServer", "postgres_server", "redis_server"]


@contextlib.contextmanager
def postgres_server() -> Iterator[str]:
    """Address of a server whose default database may be used to create others."""
    given = os.environ.get("AUDITOR_TEST_DB")
    if given:
        yield given
        return
    binaries = postgres_binaries()
    if binaries is not None:
        with PostgresServer(binaries) as server:
            yield server.url
        return
    if importlib.util.find_spec("pgserver") is None:
        raise NoServer("no AUDITOR_TEST_DB, no PostgreSQL binaries and no pgserver wheel")
    with _postgres_wheel() as url:
        yield url


@contextlib.contextmanager
def redis_server() -> Iterator[str]:
    """Address of a Redis server."""
    given = os.environ.get("AUDITOR_TEST_REDIS")
    if given:
        yield given
        return
    with RedisServer(redis_binary()) as server:
        yield server.url


@contextlib.contextmanager
def _postgres_wheel() -> Iterator[str]:
    import pgserver

    with tempfile.TemporaryDirectory(prefix="auditor-pg-", ignore_cleanup_errors=True) as folder:
        server = pgserver.get_server(folder, cleanup_mode="stop")
        try:
            yield server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
        finally:
            server.cleanup()
