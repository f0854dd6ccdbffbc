"""What a runner process gives up before it reads a stranger's file. Works without any privilege, on Linux.

Nothing of a stranger is ever executed; this is for the case that a parser has a hole. Each layer stands alone, and
where a machine lacks one the others still hold; `auditor doctor` says which are active. Time is limited by the parent.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from auditor.errors import RunnerFailure
from auditor.runner.seccomp import checked, libc_here, no_network, no_processes, this_machine

_PR_SET_NO_NEW_PRIVS, _PR_CAPBSET_DROP = 38, 24
_CAPABILITY_VERSION, _LAST_CAPABILITY = 0x20080522, 63
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_MAX_FILES = 4096

_ACCESS_BY_ABI = {1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF}
"""File rights that Landlock can withhold, by its version; later ones are about devices, which CUDA needs."""
_READ = 0x1 | 0x4 | 0x8
_OF_FILES = 0x1 | 0x2 | 0x4 | 0x4000
"""Rights that a single file can have."""


@dataclass(frozen=True)
class Layer:
    """One thing that was given up.

    Attributes:
        name: what of.
        active: whether it holds.
        note: why not.
    """

    name: str
    active: bool
    note: str = ""


NETWORK, FILES = "network", "files"


def isolate(
    *,
    readable: Iterable[Path],
    writable: Iterable[Path],
    hidden: Iterable[Path],
    memory_bytes: int = 0,
    starts_processes: bool = False,
) -> tuple[Layer, ...]:
    """Give up privileges, network, files and other programs, for good, also of processes that this one starts.

    Args:
        readable: stays readable although it lies in a hidden folder, but for hidden folders inside it.
        writable: the only folders that stay writable, beside devices; readable also inside a hidden folder.
        hidden: folders and files that can no longer be read.
        memory_bytes: see `limit`.
        starts_processes: other programs may still be started.
    """
    return (
        _layer("limits", _limit_files),
        _layer("memory", lambda: _limit_memory(memory_bytes)) if memory_bytes else Layer("memory", False, "no limit"),
        _layer("new privileges", _no_new_privileges),
        _layer(NETWORK, no_network),
        _layer(FILES, lambda: _only_files([*readable], [*writable, *_devices(starts_processes)], [*hidden])),
        Layer("processes", False, "needed") if starts_processes else _layer("processes", no_processes),
        _layer("capabilities", _no_capabilities),
    )


def require(layers: Sequence[Layer]) -> None:
    """Raise RunnerFailure where the two layers that matter most do not hold."""
    absent = [layer for layer in layers if layer.name in (NETWORK, FILES) and not layer.active]
    if absent:
        missing = [f"{layer.name} ({layer.note})" for layer in absent]
        raise RunnerFailure(
            f"the runner process cannot be isolated on this machine: {', '.join(missing)}",
            remedy="Take a kernel with seccomp and Landlock (Linux 5.13), or set AUDITOR_ISOLATION=auto.",
        )


def limit(memory_bytes: int) -> None:
    """No core dumps, since they would hold private images; few open files; and little memory.

    Args:
        memory_bytes: what each process may have to itself; 0: no limit. Address space that is only reserved, as CUDA
            does, does not count, nor does what is shared.
    """
    _limit_files()
    _limit_memory(memory_bytes)


def _limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    n_files = _MAX_FILES if most == resource.RLIM_INFINITY else min(_MAX_FILES, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (n_files, n_files))


def _limit_memory(memory_bytes: int) -> None:
    if memory_bytes:
        most = resource.getrlimit(resource.RLIMIT_DATA)[1]
        own = memory_bytes if most == resource.RLIM_INFINITY else min(memory_bytes, most)
        resource.setrlimit(resource.RLIMIT_DATA, (own, own))


def layers_here(hidden: Path, memory_bytes: int) -> tuple[Layer, ...]:
    """The layers that hold on this machine, as a process that tried them tells."""
    command = [sys.executable, "-P", "-m", "auditor.runner.isolation", str(hidden), str(memory_bytes)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603
    if done.returncode:
        return (Layer("isolation", False, done.stderr.strip().rpartition("\n")[2] or "the trial ended at once"),)
    return tuple(Layer(**row) for row in json.loads(done.stdout))


def own_code() -> tuple[Path, ...]:
    """Where Python, the libraries and this project lie; readable wherever that is."""
    places = {Path(sys.prefix), Path(sys.base_prefix), Path(__file__).parents[2], *(Path(p) for p in sys.path if p)}
    return tuple(sorted(place for place in places if place.exists()))


def _layer(name: str, act: Callable[[], None]) -> Layer:
    if sys.platform != "linux":
        return Layer(name, False, f"not on {sys.platform}")
    try:
        act()
    except OSError as error:
        return Layer(name, False, error.strerror or str(error))
    except ValueError as error:  # of a limit
        return Layer(name, False, str(error))
    return Layer(name, True)


def _no_new_privileges() -> None:
    checked(libc_here().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def _no_capabilities() -> None:
    """Empty every set; a bounding set that may not be shrunk gives nothing back without new privileges."""
    machine, libc = this_machine(), libc_here()
    for capability in range(_LAST_CAPABILITY + 1):
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    header, empty = struct.pack("Ii", _CAPABILITY_VERSION, 0), bytes(24)
    checked(libc.syscall(machine.capset, ctypes.c_char_p(header), ctypes.c_char_p(empty)))


def _only_files(readable: list[Path], writable: list[Path], hidden: list[Path]) -> None:
    """Landlock rules: everything outside the hidden folders may be read, and little may be written.

    Raises:
        OSError: of these rules, or one of the hidden folders is itself to stay readable; the rest holds then.
    """
    libc = libc_here()
    version = checked(libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1))
    handled = _ACCESS_BY_ABI[min(version, max(_ACCESS_BY_ABI))]
    attribute = struct.pack("Q", handled)
    ruleset = checked(
        libc.syscall(_LANDLOCK_CREATE, ctypes.c_char_p(attribute), ctypes.c_size_t(len(attribute)), ctypes.c_uint(0))
    )
    without = {path.resolve() for path in hidden if path.exists()}
    wanted = {path.resolve() for path in readable if path.exists()}
    shown = {path for folder in wanted for path in _around(folder, without - {folder, *folder.parents})}
    rights = dict.fromkeys([*_around(Path("/"), without), *shown], _READ)
    rights |= {path.resolve(): handled for path in writable if path.exists()}
    try:
        for path, access in rights.items():
            _allow(ruleset, path, access)
        checked(libc.syscall(_LANDLOCK_RESTRICT, ruleset, ctypes.c_uint(0)))
    finally:
        os.close(ruleset)
    if exposed := sorted(map(str, without & wanted)):
        raise OSError(
            errno.EINVAL, f"{', '.join(exposed)} cannot be hidden: code, or what is audited, lies there itself"
        )


def _devices(starts_processes: bool) -> Iterator[Path]:
    """What stays writable in /dev: not memory shared by name, which would outlive the unit, but for who may need it."""
    needs_shared = starts_processes or Path("/dev/nvidiactl").exists()
    shared = {Path("/dev/shm"), Path("/dev/mqueue")}  # noqa: S108 - refused, not used
    return _around(Path("/dev"), set() if needs_shared else shared)


def _around(folder: Path, hidden: set[Path]) -> Iterator[Path]:
    """The largest folders and files under `folder` that hold nothing hidden."""
    if folder in hidden:
        return
    if not any(path.is_relative_to(folder) for path in hidden):
        yield folder
        return
    try:
        inside = list(folder.iterdir())
    except OSError:
        return
    for path in inside:
        if not path.is_symlink():
            yield from _around(path, hidden)


def _allow(ruleset: int, path: Path, access: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # it went away meanwhile, or cannot be reached anyway
    try:
        rule = struct.pack("=Qi", access if path.is_dir() else access & _OF_FILES, descriptor)
        checked(libc_here().syscall(_LANDLOCK_ADD, ruleset, 1, ctypes.c_char_p(rule), ctypes.c_uint(0)))
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    tried = isolate(readable=own_code(), writable=(), hidden=[Path(sys.argv[1])], memory_bytes=int(sys.argv[2]))
    sys.stdout.write(json.dumps([asdict(layer) for layer in tried]))
