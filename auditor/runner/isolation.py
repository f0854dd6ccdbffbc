"""What a runner process gives up before it reads a stranger's file. Works without any privilege, on Linux.

Nothing of a stranger is ever executed; this is for the case that a parser has a hole. Each layer stands alone, and
where a machine lacks one the others still hold; `auditor doctor` says which are active. Time is limited by the parent.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import resource
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from auditor.errors import RunnerFailure

_PR_SET_NO_NEW_PRIVS, _PR_CAPBSET_DROP = 38, 24
_CAPABILITY_VERSION, _LAST_CAPABILITY = 0x20080522, 63
_SECCOMP_SET_MODE_FILTER, _SECCOMP_TSYNC = 1, 1
_AF_UNIX = 1
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_ALLOW, _DENY, _ABSENT = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
_LOAD, _EQUALS, _AT_LEAST, _HAS_BITS, _ANSWER = 0x20, 0x15, 0x35, 0x45, 0x06
"""What an instruction of a seccomp filter does."""
_CLONE_THREAD = 0x10000
_MAX_FILES = 4096


@dataclass(frozen=True)
class _Machine:
    """Numbers of one processor family: its seccomp id, system calls that no unit needs, and those that start something.

    `clone` starts threads too, and tells by its flags; those of `clone3` lie where a filter cannot see them.
    """

    audit: int
    seccomp: int
    capset: int
    sockets: tuple[int, int]
    denied: tuple[int, ...]
    clone: int
    clone3: int
    starting: tuple[int, ...]


# connect, bind, listen, accept, accept4, ptrace, process_vm_readv, process_vm_writev, mount, umount2, pivot_root,
# unshare, setns, bpf, perf_event_open, keyctl, add_key, request_key, kexec_load, init_module, finit_module,
# open_by_handle_at, io_uring_setup, userfaultfd; and fork, vfork (of x86 alone), execve, execveat
_MACHINES = {
    "x86_64": _Machine(
        0xC000003E, 317, 126, (41, 53),
        (42, 49, 50, 43, 288, 101, 310, 311, 165, 166, 155, 272, 308, 321, 298, 250, 248, 249, 246, 175, 313, 304, 425,
         323),
        56, 435, (57, 58, 59, 322),
    ),
    "aarch64": _Machine(
        0xC00000B7, 277, 91, (198, 199),
        (203, 200, 201, 202, 242, 117, 270, 271, 40, 39, 41, 97, 268, 280, 241, 219, 217, 218, 104, 105, 273, 265, 425,
         282),
        220, 435, (221, 281),
    ),
}  # fmt: skip
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
        _layer("limits", lambda: limit(memory_bytes)),
        Layer("memory", True) if memory_bytes else Layer("memory", False, "no limit is set"),
        _layer("new privileges", _no_new_privileges),
        _layer(NETWORK, _no_network),
        _layer(FILES, lambda: _only_files([*readable], [*writable], [*hidden])),
        Layer("processes", False, "needed") if starts_processes else _layer("processes", _no_processes),
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
            does, does not count.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    n_files = _MAX_FILES if most == resource.RLIM_INFINITY else min(_MAX_FILES, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (n_files, n_files))
    if memory_bytes:
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))


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
    return Layer(name, True)


def _no_new_privileges() -> None:
    _checked(_libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def _no_capabilities() -> None:
    """Empty every set; a bounding set that may not be shrunk gives nothing back without new privileges."""
    machine, libc = _machine(), _libc()
    for capability in range(_LAST_CAPABILITY + 1):
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    header, empty = struct.pack("Ii", _CAPABILITY_VERSION, 0), bytes(24)
    _checked(libc.syscall(machine.capset, ctypes.c_char_p(header), ctypes.c_char_p(empty)))


def _no_network() -> None:
    """Sockets of this machine's kind alone, none of them connected to anything; nor what no unit needs."""
    machine = _machine()
    rules = [rule for number in machine.denied for rule in ((_EQUALS, 0, 1, number), (_ANSWER, 0, 0, _DENY))]
    first, second = machine.sockets
    rules += [(_EQUALS, 1, 0, first), (_EQUALS, 0, 3, second), (_LOAD, 0, 0, 16), (_EQUALS, 1, 0, _AF_UNIX)]
    _filter(machine, [*rules, (_ANSWER, 0, 0, _DENY)])


def _no_processes() -> None:
    """Threads alone. What cannot be told from a process by its flags is absent, and libraries then use the other."""
    machine = _machine()
    rules = [rule for number in machine.starting for rule in ((_EQUALS, 0, 1, number), (_ANSWER, 0, 0, _DENY))]
    rules += [(_EQUALS, 0, 1, machine.clone3), (_ANSWER, 0, 0, _ABSENT)]
    rules += [(_EQUALS, 0, 3, machine.clone), (_LOAD, 0, 0, 16), (_HAS_BITS, 1, 0, _CLONE_THREAD)]
    _filter(machine, [*rules, (_ANSWER, 0, 0, _DENY)])


def _filter(machine: _Machine, rules: Sequence[tuple[int, int, int, int]]) -> None:
    """Install a seccomp filter on every thread: these rules start at the call's number; what they leave is allowed."""
    head = [(_LOAD, 0, 0, 4), (_EQUALS, 1, 0, machine.audit), (_ANSWER, 0, 0, _DENY), (_LOAD, 0, 0, 0)]
    head += [(_AT_LEAST, 0, 1, 0x40000000), (_ANSWER, 0, 0, _DENY)]  # the other numbering of an x86-64 kernel
    whole = [*head, *rules, (_ANSWER, 0, 0, _ALLOW)]
    program = b"".join(struct.pack("HBBI", *rule) for rule in whole)
    buffer = ctypes.create_string_buffer(program, len(program))
    block = struct.pack("HxxxxxxP", len(whole), ctypes.addressof(buffer))
    flags = ctypes.c_ulong(_SECCOMP_TSYNC)
    _checked(_libc().syscall(machine.seccomp, _SECCOMP_SET_MODE_FILTER, flags, ctypes.c_char_p(block)))


def _only_files(readable: list[Path], writable: list[Path], hidden: list[Path]) -> None:
    """Landlock rules: everything outside the hidden folders may be read, and little may be written.

    Raises:
        OSError: of these rules, or one of the hidden folders is itself to stay readable; the rest holds then.
    """
    libc = _libc()
    version = _checked(libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1))
    handled = _ACCESS_BY_ABI[min(version, max(_ACCESS_BY_ABI))]
    attribute = struct.pack("Q", handled)
    ruleset = _checked(
        libc.syscall(_LANDLOCK_CREATE, ctypes.c_char_p(attribute), ctypes.c_size_t(len(attribute)), ctypes.c_uint(0))
    )
    without = {path.resolve() for path in hidden if path.exists()}
    wanted = {path.resolve() for path in readable if path.exists()}
    shown = {path for folder in wanted for path in _around(folder, without - {folder, *folder.parents})}
    rights = dict.fromkeys([*_around(Path("/"), without), *shown], _READ)
    rights |= {path.resolve(): handled for path in [*writable, Path("/dev")] if path.exists()}
    try:
        for path, access in rights.items():
            _allow(ruleset, path, access)
        _checked(libc.syscall(_LANDLOCK_RESTRICT, ruleset, ctypes.c_uint(0)))
    finally:
        os.close(ruleset)
    if exposed := sorted(map(str, without & wanted)):
        raise OSError(
            errno.EINVAL, f"{', '.join(exposed)} cannot be hidden: code, or what is audited, lies there itself"
        )


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
        _checked(_libc().syscall(_LANDLOCK_ADD, ruleset, 1, ctypes.c_char_p(rule), ctypes.c_uint(0)))
    finally:
        os.close(descriptor)


def _machine() -> _Machine:
    try:
        return _MACHINES[platform.machine()]
    except KeyError:
        raise OSError(errno.ENOSYS, f"not known for {platform.machine()}") from None


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(answer: int) -> int:
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return answer


if __name__ == "__main__":
    tried = isolate(readable=own_code(), writable=(), hidden=[Path(sys.argv[1])], memory_bytes=int(sys.argv[2]))
    sys.stdout.write(json.dumps([asdict(layer) for layer in tried]))
