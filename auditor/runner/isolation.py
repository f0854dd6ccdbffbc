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
_ALLOW, _DENY = 0x7FFF0000, 0x00050000 | errno.EPERM
_MAX_FILES = 4096


@dataclass(frozen=True)
class _Machine:
    """Numbers of one processor family: its seccomp id, and system calls that no unit needs."""

    audit: int
    seccomp: int
    capset: int
    sockets: tuple[int, int]
    denied: tuple[int, ...]


# connect, bind, listen, accept, accept4, ptrace, process_vm_readv, process_vm_writev, mount, umount2, pivot_root,
# unshare, setns, bpf, perf_event_open, keyctl, add_key, request_key, kexec_load, init_module, finit_module,
# open_by_handle_at, io_uring_setup, userfaultfd
_MACHINES = {
    "x86_64": _Machine(
        0xC000003E, 317, 126, (41, 53),
        (42, 49, 50, 43, 288, 101, 310, 311, 165, 166, 155, 272, 308, 321, 298, 250, 248, 249, 246, 175, 313, 304, 425,
         323),
    ),
    "aarch64": _Machine(
        0xC00000B7, 277, 91, (198, 199),
        (203, 200, 201, 202, 242, 117, 270, 271, 40, 39, 41, 97, 268, 280, 241, 219, 217, 218, 104, 105, 273, 265, 425,
         282),
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
    *, readable: Iterable[Path], writable: Iterable[Path], hidden: Iterable[Path], memory_bytes: int = 0
) -> tuple[Layer, ...]:
    """Give up privileges, network and files, for good, also of processes that this one starts.

    Args:
        readable: stays readable although it lies in a hidden folder, but for hidden folders inside it.
        writable: the only folders that stay writable, beside devices; readable also inside a hidden folder.
        hidden: folders and files that can no longer be read.
        memory_bytes: address-space limit; 0: none.
    """
    return (
        _layer("limits", lambda: limit(memory_bytes)),
        _layer("new privileges", _no_new_privileges),
        _layer(NETWORK, _no_network),
        _layer(FILES, lambda: _only_files([*readable], [*writable], [*hidden])),
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
    """No core dumps, since they would hold private images; few open files; and the address-space limit."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    n_files = _MAX_FILES if most == resource.RLIM_INFINITY else min(_MAX_FILES, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (n_files, n_files))
    if memory_bytes:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))


def layers_here(hidden: Path) -> tuple[Layer, ...]:
    """The layers that hold on this machine, as a process that tried them tells."""
    command = [sys.executable, "-P", "-m", "auditor.runner.isolation", str(hidden)]
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
    """A seccomp filter, on every thread: sockets of this machine's kind alone, none of them connected to anything."""
    machine = _machine()
    load, jump_if, jump_over, answer = 0x20, 0x15, 0x35, 0x06
    body: list[tuple[int, int, int, int]] = [(jump_if, 0, 1, number) for number in machine.denied]
    rules = [(load, 0, 0, 4), (jump_if, 1, 0, machine.audit), (answer, 0, 0, _DENY), (load, 0, 0, 0)]
    rules += [(jump_over, 0, 1, 0x40000000), (answer, 0, 0, _DENY)]  # the other numbering of an x86-64 kernel
    for rule in body:
        rules += [rule, (answer, 0, 0, _DENY)]
    first, second = machine.sockets
    rules += [(jump_if, 1, 0, first), (jump_if, 0, 3, second), (load, 0, 0, 16), (jump_if, 1, 0, _AF_UNIX)]
    rules += [(answer, 0, 0, _DENY), (answer, 0, 0, _ALLOW)]
    program = b"".join(struct.pack("HBBI", *rule) for rule in rules)
    buffer = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("HxxxxxxP", len(rules), ctypes.addressof(buffer))
    flags = ctypes.c_ulong(_SECCOMP_TSYNC)
    _checked(_libc().syscall(machine.seccomp, _SECCOMP_SET_MODE_FILTER, flags, ctypes.c_char_p(head)))


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
    tried = isolate(readable=own_code(), writable=(), hidden=[Path(sys.argv[1])])
    sys.stdout.write(json.dumps([asdict(layer) for layer in tried]))
