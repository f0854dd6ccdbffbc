"""A process of the service on its own, for tests and for the run with faults."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from auditor.settings import Settings
from auditor.testing.handlers import wait_for


def environment_of(settings: Settings) -> dict[str, str]:
    """The environment in which `Settings()` are these settings."""
    given = settings.model_dump(exclude_none=True)
    addresses = {"database_url": settings.database_url, "broker_url": settings.broker_url}
    given |= {name: value.get_secret_value() for name, value in addresses.items() if value is not None}
    return {name: value for name, value in os.environ.items() if not name.startswith("AUDITOR_")} | {
        f"AUDITOR_{name.upper()}": str(value) for name, value in given.items()
    }


class OwnProcess:
    """Runs `code` in a process of its own on `settings`; leaving the block stops it.

    Args:
        settings: what `Settings()` are there.
        code: of Python.
        environment: further variables.

    Attributes:
        NOUN: what it is.
        READY: what it logs when it has started.
        END: the signal that makes it stop at once.
        log: file of everything it writes.
    """

    NOUN: ClassVar[str]
    READY: ClassVar[str]
    END: ClassVar[signal.Signals]

    def __init__(self, settings: Settings, code: str, environment: Mapping[str, str] | None = None) -> None:
        self.log = settings.home / f"{self.NOUN}-{id(self):x}.log"
        self._settings = settings
        self._code = code
        self._environment = environment_of(settings) | dict(environment or {})
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Start it, or start it again; returns when it is ready."""
        ready = self.text.count(self.READY)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603 - our own interpreter, no shell
                [sys.executable, "-c", self._code],
                env=self._environment,
                stdout=log,
                stderr=log,
                cwd=self._settings.home,
                start_new_session=True,
            )
        wait_for(lambda: self.text.count(self.READY) > ready or not self.alive)
        if not self.alive:
            raise RuntimeError(f"the {self.NOUN} did not start:\n{self.text[-4000:]}")

    def stop(self, seconds: float = 20.0) -> None:
        """Make it stop now; kill it when it does not."""
        if self.process is None:
            return
        if self.alive:
            self.process.send_signal(self.END)
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def signal(self, number: int) -> None:
        """Send it a signal."""
        if self.process is not None:
            self.process.send_signal(number)

    def kill_and_restart(self) -> None:
        """Kill -9, and a new start as by a supervisor."""
        self.signal(signal.SIGKILL)
        wait_for(lambda: not self.alive)
        self.start()

    @property
    def alive(self) -> bool:
        """Whether its parent process runs."""
        return self.process is not None and self.process.poll() is None

    @property
    def text(self) -> str:
        """Everything it logged."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


def children_of(pid: int) -> tuple[int, ...]:
    """The processes that a process has started and that have not ended."""
    try:
        return tuple(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except OSError:
        return ()
