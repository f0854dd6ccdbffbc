"""The child's side of the runner: one unit, then exit.

Only protocol lines reach the parent: the real standard output is put aside and descriptor 1 points at standard error,
so neither Python nor a C library can break the protocol by printing.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import resource
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from auditor.contracts.jobs import Failed, Finished, RunnerMessage, UnitSpec
from auditor.errors import AuditorError, RunnerFailure, StorageFailure, ran_out_of_memory
from auditor.runner.isolation import isolate, limit, own_code, require
from auditor.runner.protocol import RunnerRequest, encode
from auditor.service.failures import failure_of
from auditor.service.session import Handler, Session
from auditor.service.workspace import Workspace

_COMPILERS = ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "CUDA_CACHE_PATH")
"""Where compilers keep code: nowhere, since a later unit would execute what an earlier one left."""


def main(handlers: str, preload: Sequence[str]) -> int:
    """Import `preload`, read the request, run the unit, report; returns the exit status."""
    out = _take_standard_output()
    for module in preload:
        importlib.import_module(module)
    line = sys.stdin.buffer.readline()
    if not line:  # the parent ended before it had a unit for this process
        return 0
    lock = threading.Lock()

    def send(message: RunnerMessage) -> None:
        with lock, contextlib.suppress(BrokenPipeError):  # without a parent the watch below ends this process
            out.write(encode(message))
            out.flush()

    request = RunnerRequest.model_validate_json(line)
    root = Path(request.root)
    _move_to(root)
    try:
        _confine(request)
    except RunnerFailure as error:
        send(failure_of(error))
        return 1
    session = Session(Workspace(root, Path(request.cache)), request.device, send)
    signal.signal(signal.SIGTERM, lambda _number, _frame: session.stopped.set())
    threading.Thread(target=_watch_parent, daemon=True).start()
    failure = _run(handlers, request.unit, session)
    if failure is not None:
        send(failure)
    return 0 if failure is None else 1


def _run(handlers: str, unit: UnitSpec, session: Session) -> Failed | None:
    started = time.monotonic()
    try:
        value = _load(handlers, unit.kind)(unit, session.workspace, session)
        finished = Finished(
            value=value,
            outputs=_outputs(session.workspace),
            seconds=time.monotonic() - started,
            peak_memory_bytes=_peak_memory_bytes(),
        )
    except AuditorError as error:
        traceback.print_exc()
        return failure_of(error)
    except Exception as error:
        traceback.print_exc()
        return failure_of(_named(error))
    session.send(finished)
    return None


def _named(error: Exception) -> AuditorError:
    """An error of Python or torch as one that says what to do; anything unknown is a defect, with its place."""
    if ran_out_of_memory(error):
        remedy = (
            "Take a smaller batch (`plan.overrides.batch_size`; for a repair `--params '{\"batch_size\": 32}'`) or "
            "smaller images, or give the runner more (AUDITOR_RUNNER_MEMORY_BYTES)."
        )
        return RunnerFailure("the unit ran out of memory", remedy=remedy)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFailure(f"the unit's files could not be written: {error.strerror}")
    where = traceback.extract_tb(error.__traceback__)[-1]
    return AuditorError(f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})")


def _load(handlers: str, kind: str) -> Handler:
    """The handler of `kind` from the table that `module:function` returns."""
    module, _, function = handlers.partition(":")
    table: Mapping[str, Handler] = getattr(importlib.import_module(module), function)()
    try:
        return table[kind]
    except KeyError:
        raise RunnerFailure(f"no handler for units of kind '{kind}'; known: {', '.join(sorted(table))}") from None


def _outputs(workspace: Workspace) -> tuple[str, ...]:
    folder = workspace.root / "outputs"
    return tuple(sorted(path.name for path in folder.iterdir() if path.is_file())) if folder.is_dir() else ()


def _take_standard_output() -> IO[bytes]:
    """The pipe to the parent; descriptor 1 becomes a copy of standard error."""
    private = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return os.fdopen(private, "wb")


def _move_to(root: Path) -> None:
    """Work, and keep temporary files, in the unit's folder."""
    scratch = root / "tmp"
    scratch.mkdir(parents=True, exist_ok=True)
    os.chdir(root)
    os.environ |= dict.fromkeys(("TMPDIR", *_COMPILERS), str(scratch))
    tempfile.tempdir = None


def _confine(request: RunnerRequest) -> None:
    """Give up what the unit does not need; one that fetches keeps network and files, and reads nothing of strangers."""
    if request.isolation == "off" or request.unit.needs_network:
        limit(request.memory_bytes)
        return
    layers = isolate(
        readable=[*own_code(), *(Path(place) for place in request.unit.places)],
        writable=[Path(request.root), Path(request.cache)],
        hidden=[Path(folder) for folder in request.hidden],
        memory_bytes=request.memory_bytes,
        starts_processes=request.unit.starts_processes,
    )
    if request.isolation == "required":
        require(layers)


def _watch_parent() -> None:
    """Standard input ends when the parent dies, however it dies: then this whole group ends too."""
    while os.read(0, 1024):
        pass
    os.killpg(0, signal.SIGKILL)


def _peak_memory_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
