"""The parent's side of the runner: one fresh process per unit, with nothing but the unit.

This module never imports torch, and neither does whatever holds it (a worker, the CLI): all computing, and all
reading of files from strangers, happens in the child.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from auditor.contracts.jobs import Failed, Finished, RunnerMessage, UnitSpec
from auditor.errors import Cancelled, RunnerDied, RunnerFailure
from auditor.runner.protocol import MAX_LINE_BYTES, MESSAGES, Isolation, RunnerRequest
from auditor.service.failures import error_of

GRACE_S = 5.0
"""Time between asking a process to stop and killing it."""
POLL_S = 0.2
LOG_LINES = 200
"""Lines of the child's standard error that are kept."""
LOG_LINE_BYTES = 4096

_PASSED_ON = (
    "PATH", "HOME", "USER", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV",
    "LD_LIBRARY_PATH", "XDG_CACHE_HOME", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUDA_HOME",
    "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "OMP_NUM_THREADS", "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
)  # fmt: skip
"""The only variables a child inherits: no database, broker or store address is among them."""


def child_environment(parent: Mapping[str, str], *, threads: int) -> dict[str, str]:
    """The environment of a runner process.

    Args:
        parent: the parent's environment.
        threads: compute threads; 0 keeps what the parent was given, or leaves it to torch.
    """
    environment = {name: parent[name] for name in _PASSED_ON if name in parent}
    environment |= {
        "ORT_DISABLE_TELEMETRY": "1",
        "PYTHONUNBUFFERED": "1",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }
    if threads:
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    return environment


@dataclass
class _Pipes:
    """What has been read from a child so far."""

    line: bytearray = field(default_factory=bytearray)
    messages: deque[RunnerMessage] = field(default_factory=deque)
    log: deque[str] = field(default_factory=lambda: deque(maxlen=LOG_LINES))

    def feed_output(self, data: bytes) -> None:
        """Split protocol lines; raises RunnerFailure for anything that is not one."""
        self.line += data
        *lines, rest = self.line.split(b"\n")
        if len(rest) > MAX_LINE_BYTES:
            raise RunnerFailure("the runner process wrote a line over the protocol's limit")
        self.line = bytearray(rest)
        for line in lines:
            try:
                self.messages.append(MESSAGES.validate_json(bytes(line)))
            except ValidationError:
                shown = bytes(line[:200]).decode(errors="replace")
                raise RunnerFailure(f"the runner process broke its protocol: {shown!r}{self.tail}") from None

    def feed_log(self, data: bytes) -> None:
        """Keep the last lines of standard error."""
        self.log.extend(line[:LOG_LINE_BYTES].decode(errors="replace") for line in data.splitlines() if line.strip())

    @property
    def tail(self) -> str:
        """The last lines of the log, each on its own line, for the end of an error message."""
        return "".join(f"\n{line}" for line in list(self.log)[-15:])


class ProcessRunner:
    """Runs units in child processes.

    Args:
        handlers: `module:function` of the child's handler table.
        cache: folder of the content caches, one for each team: a model that breaks out of its unit's process can
            then spoil nothing that another team's audits are measured with.
        preload: modules that a child imports before it is given its unit. With any, the child of the next unit is
            started while this one's runs, since importing torch takes longer than many a unit. Every child still runs
            one unit and ends.
        device: `auto`, `cpu` or `cuda`.
        timeout_s: wall-clock limit of one unit.
        memory_bytes: what a child may have to itself; 0: no limit.
        threads: compute threads of a child; 0 leaves the choice to torch.
        isolation: `auto`, `required` or `off`; see `auditor.runner.isolation`.
        private: the installation's own folder, with database and artifacts; None: there is none to hide.
        secret: a file outside that folder that is hidden too.
    """

    def __init__(
        self,
        *,
        handlers: str,
        cache: Path,
        preload: Sequence[str] = (),
        device: str = "auto",
        timeout_s: float = 6 * 3600,
        memory_bytes: int = 0,
        threads: int = 0,
        isolation: Isolation = "auto",
        private: Path | None = None,
        secret: Path | None = None,
    ) -> None:
        self._isolation, self._private, self._secret = isolation, private, secret
        self._cache = cache
        self._device = device
        self._timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        self._threads = threads
        self._command = [sys.executable, "-P", "-m", "auditor.runner", "--handlers", handlers, "--preload", *preload]
        self._keeps_spare = bool(preload)
        self._spare: subprocess.Popen[bytes] | None = None
        self._spare_lock = threading.Lock()

    def run(
        self,
        unit: UnitSpec,
        root: Path,
        *,
        team_id: str,
        on_message: Callable[[RunnerMessage], None],
        should_stop: Callable[[], bool],
    ) -> Finished:
        """Run `unit` in `root`; see the UnitRunner port. Whatever happens, no process of the group is left."""
        process = self._take(unit)
        last: RunnerMessage | None = None
        try:
            pipes = _Pipes()
            self._send(process, unit, root, self._cache / team_id)
            if self._keeps_spare:
                self._make_spare(unit)
            last = self._follow(process, pipes, on_message, should_stop)
            return _conclude(process, last, pipes)
        finally:
            _end(process, polite=last is None)

    def close(self) -> None:
        """End the child that waits for a unit, if there is one."""
        with self._spare_lock:
            spare, self._spare = self._spare, None
        if spare is not None:
            _end(spare, polite=False)

    def _take(self, unit: UnitSpec) -> subprocess.Popen[bytes]:
        """The child that waits, if it is alive, or a new one."""
        with self._spare_lock:
            spare, self._spare = self._spare, None
        if spare is None:
            return self._start(unit)
        if spare.poll() is not None:
            _end(spare, polite=False)
            return self._start(unit)
        return spare

    def _make_spare(self, unit: UnitSpec) -> None:
        """Start the child of the next unit, unless one waits already."""
        with self._spare_lock, contextlib.suppress(RunnerFailure):  # the next unit will say so
            if self._spare is None:
                self._spare = self._start(unit)

    def _start(self, unit: UnitSpec) -> subprocess.Popen[bytes]:
        try:
            self._cache.mkdir(parents=True, exist_ok=True)
            return subprocess.Popen(  # noqa: S603 - our own interpreter and module, no shell
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=self._cache,
                env=child_environment(os.environ, threads=self._threads),
                start_new_session=True,
            )
        except OSError as error:
            raise RunnerFailure(f"the process for unit '{unit.key}' could not be started: {error}") from error

    def _send(self, process: subprocess.Popen[bytes], unit: UnitSpec, root: Path, cache: Path) -> None:
        cache.mkdir(exist_ok=True)
        request = RunnerRequest(
            unit=unit,
            root=str(root),
            cache=str(cache),
            device=self._device,
            memory_bytes=self._memory_bytes,
            isolation=self._isolation,
            hidden=self._hidden(unit),
        )
        stdin = _pipe(process.stdin)
        with contextlib.suppress(BrokenPipeError):  # it died at once: its exit status tells more
            stdin.write(request.model_dump_json().encode() + b"\n")
            stdin.flush()

    def _hidden(self, unit: UnitSpec) -> tuple[str, ...]:
        """The installation's folder and secret, and the user's, unless the unit reads the submitter's files in place.

        What a server received lies in the installation's folder, so there the user's is hidden too.
        """
        home, private = Path.home(), self._private
        is_local = any(private is None or not Path(place).is_relative_to(private.absolute()) for place in unit.places)
        paths = [private, self._secret, None if is_local or home == Path("/") else home]
        return tuple(str(path.absolute()) for path in paths if path is not None)

    def _follow(
        self,
        process: subprocess.Popen[bytes],
        pipes: _Pipes,
        on_message: Callable[[RunnerMessage], None],
        should_stop: Callable[[], bool],
    ) -> RunnerMessage | None:
        """Read until both pipes end; returns the last message."""
        deadline = time.monotonic() + self._timeout_s
        last: RunnerMessage | None = None
        with selectors.DefaultSelector() as selector:
            for stream, feed in ((process.stdout, pipes.feed_output), (process.stderr, pipes.feed_log)):
                selector.register(_pipe(stream), selectors.EVENT_READ, feed)
            while selector.get_map():
                for key, _events in selector.select(POLL_S):
                    data = os.read(key.fd, 1 << 16)
                    if data:
                        key.data(data)
                    else:
                        selector.unregister(key.fileobj)
                while pipes.messages:
                    last = pipes.messages.popleft()
                    on_message(last)
                if isinstance(last, Finished | Failed):
                    return last
                if should_stop():
                    raise Cancelled("the job was cancelled")
                if time.monotonic() > deadline:
                    raise RunnerFailure(
                        f"the unit ran longer than {self._timeout_s:g} s and was stopped",
                        remedy="Raise AUDITOR_UNIT_TIMEOUT_S, or take a smaller plan.",
                    )
        return last


def _conclude(process: subprocess.Popen[bytes], last: RunnerMessage | None, pipes: _Pipes) -> Finished:
    """The result, or the error that says why there is none."""
    if isinstance(last, Finished):
        return last
    if isinstance(last, Failed):
        raise error_of(last)
    status = process.wait(GRACE_S)
    if status < 0:
        name = signal.Signals(-status).name
        note = " (mostly this means that the machine ran out of memory)" if -status == signal.SIGKILL else ""
        raise RunnerDied(f"the runner process was killed by {name}{note}{pipes.tail}")
    raise RunnerDied(f"the runner process ended with status {status} and no result{pipes.tail}")


def _end(process: subprocess.Popen[bytes], *, polite: bool) -> None:
    """Make the whole group stop; `polite` asks first. A child that has reported has nothing left to do."""
    if polite:
        _signal_group(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
    _signal_group(process, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        with contextlib.suppress(OSError):
            _pipe(stream).close()


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise RunnerFailure("the runner process has no pipe")
    return stream
