"""Fixtures for every test: a clean environment, and real servers where a test asks for them."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest
import servers

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
for _name in [name for name in os.environ if name.startswith("AUDITOR_") and "TEST" not in name]:
    if _name != "AUDITOR_SHARED_DATA":
        del os.environ[_name]
os.environ.pop("GITHUB_STEP_SUMMARY", None)  # tests of the tests' own CI job would append to its summary
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background: children would ignore Ctrl-C too
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests for a GPU skip where there is none."""
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")


@pytest.fixture(scope="session", autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test writes into the user's own data folder."""
    os.environ["AUDITOR_HOME"] = str(tmp_path_factory.mktemp("auditor-home"))
    yield
    del os.environ["AUDITOR_HOME"]


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """Address of a real PostgreSQL server; in CI it is never skipped."""
    yield from _started("PostgreSQL", servers.postgres_server)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """Address of a real Redis server; in CI it is never skipped."""
    yield from _started("Redis", servers.redis_server)


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """A fresh, empty PostgreSQL database, dropped afterwards."""
    yield from _database(postgres_server)


@pytest.fixture(scope="module")
def shared_postgres_url(postgres_server: str) -> Iterator[str]:
    """An empty PostgreSQL database for the tests of one file."""
    yield from _database(postgres_server)


def _database(postgres_server: str) -> Iterator[str]:
    from sqlalchemy import create_engine, make_url, text

    name = f"auditor_test_{secrets.token_hex(6)}"
    address = make_url(postgres_server).set(drivername="postgresql+psycopg")
    admin = create_engine(address, isolation_level="AUTOCOMMIT")
    try:
        with admin.connect() as connection:
            connection.execute(text(f'CREATE DATABASE "{name}"'))
        yield address.set(database=name).render_as_string(hide_password=False)
        with admin.connect() as connection:
            connection.execute(text(f'DROP DATABASE "{name}" WITH (FORCE)'))
    finally:
        admin.dispose()


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'auditor.db'}"


@pytest.fixture(scope="session")
def broker_url(redis_server: str) -> str:
    """A Redis database of this test process alone: parallel ones must not take each other's messages."""
    index = int("".join(filter(str.isdigit, os.environ.get("PYTEST_XDIST_WORKER", "0"))) or 0)
    return f"{redis_server.rstrip('/')}/{index % 15 + 1}" if redis_server.count("/") < 3 else redis_server


def _started(name: str, start: Callable[[], AbstractContextManager[str]]) -> Iterator[str]:
    with ExitStack() as stack:
        try:
            url = stack.enter_context(start())
        except servers.NoServer as error:
            message = f"{name} is not available: {error}"
            if os.environ.get("CI", "").lower() in ("1", "true"):
                pytest.fail(message)
            pytest.skip(message)
        yield url
