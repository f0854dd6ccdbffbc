"""Seccomp filters: system calls that this process and those it starts can no longer make, without any privilege."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Sequence
from dataclasses import dataclass

_SECCOMP_SET_MODE_FILTER, _SECCOMP_TSYNC = 1, 1
_AF_UNIX, _SOCK_STREAM = 1, 1
_ALLOW, _DENY, _ABSENT = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
_LOAD, _KEEP_BITS, _EQUALS, _AT_LEAST, _HAS_BITS, _ANSWER = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
"""What an instruction of a seccomp filter does."""
_ARGUMENTS, _ALL_BITS = (16, 24), 0xFFFFFFFF
"""Where a filter finds the lower halves of a call's first arguments, and all of one."""
_CLONE_THREAD, _KIND_OF_SOCKET = 0x10000, 0xF
_Rule = tuple[int, int, int, int]
"""An instruction of a seccomp filter: what it does, jumps if so and if not, operand."""


@dataclass(frozen=True)
class Machine:
    """Numbers of one processor family: its seccomp id, system calls that no unit needs, and those on other processes.

    `clone` starts threads too, and tells by its flags; those of `clone3` lie where a filter cannot see them.
    """

    audit: int
    seccomp: int
    capset: int
    socketpair: int
    denied: tuple[int, ...]
    clone: int
    clone3: int
    signals: tuple[int, int]
    others: tuple[int, ...]


# socket, connect, bind, listen, accept, accept4, ptrace, process_vm_readv, process_vm_writev, mount, umount2,
# pivot_root, unshare, setns, bpf, perf_event_open, keyctl, add_key, request_key, kexec_load, init_module, finit_module,
# open_by_handle_at, io_uring_setup, userfaultfd; chmod, fchmod, chown, fchown, lchown, fchownat, fchmodat, fchmodat2,
# setxattr, lsetxattr, fsetxattr, removexattr, lremovexattr, fremovexattr, setxattrat, removexattrat; setpgid, setsid
# clone, clone3, kill and tgkill; fork, vfork, execve, execveat, tkill, rt_sigqueueinfo, rt_tgsigqueueinfo,
# pidfd_send_signal, pidfd_open
_MACHINES = {
    "x86_64": Machine(
        0xC000003E, 317, 126, 53,
        (41,
         42, 49, 50, 43, 288, 101, 310, 311, 165, 166, 155, 272, 308, 321, 298, 250, 248, 249, 246, 175, 313, 304, 425,
         323, 90, 91, 92, 93, 94, 260, 268, 452, 188, 189, 190, 197, 198, 199, 463, 466,
         109, 112),
        56, 435, (62, 234), (57, 58, 59, 322, 200, 129, 297, 424, 434),
    ),
    "aarch64": Machine(
        0xC00000B7, 277, 91, 199,
        (198,
         203, 200, 201, 202, 242, 117, 270, 271, 40, 39, 41, 97, 268, 280, 241, 219, 217, 218, 104, 105, 273, 265, 425,
         282, 52, 53, 54, 55, 452, 5, 6, 7, 14, 15, 16, 463, 466,
         154, 157),
        220, 435, (129, 131), (221, 281, 130, 138, 240, 424, 434),
    ),
}  # fmt: skip


def no_network() -> None:
    """No sockets but pairs of connected ones; nor other calls that no unit needs, such as those on rights of files."""
    machine = this_machine()
    rules = _denied(machine.denied)
    rules += _denied_unless(machine.socketpair, 0, [_AF_UNIX])
    rules += _denied_unless(machine.socketpair, 1, [_SOCK_STREAM], _KIND_OF_SOCKET)
    _filter(machine, rules)


def no_processes() -> None:
    """Threads alone, and signals to itself. Of calls whose flags cannot be seen, libraries then use the older one."""
    machine = this_machine()
    kill, tgkill = machine.signals
    rules = _denied(machine.others)
    rules += [(_EQUALS, 0, 1, machine.clone3), (_ANSWER, 0, 0, _ABSENT)]
    rules += _denied_unless(kill, 0, [0, os.getpid()])
    rules += _denied_unless(tgkill, 0, [os.getpid()])
    rules += _denied_unless(machine.clone, 0, [_CLONE_THREAD], _CLONE_THREAD)
    _filter(machine, rules)


def _denied(numbers: Sequence[int]) -> list[_Rule]:
    return [rule for number in numbers for rule in ((_EQUALS, 0, 1, number), (_ANSWER, 0, 0, _DENY))]


def _denied_unless(number: int, argument: int, allowed: Sequence[int], bits: int = _ALL_BITS) -> list[_Rule]:
    """Rules for one call: these bits of an argument must be one of `allowed`. They end at the call's number again."""
    checks = [(_EQUALS, len(allowed) - place, 0, value) for place, value in enumerate(allowed)]
    inner = [(_LOAD, 0, 0, _ARGUMENTS[argument]), (_KEEP_BITS, 0, 0, bits), *checks, (_ANSWER, 0, 0, _DENY)]
    return [(_EQUALS, 0, len(inner), number), *inner, (_LOAD, 0, 0, 0)]


def _filter(machine: Machine, rules: Sequence[_Rule]) -> None:
    """Install a seccomp filter on every thread: these rules start at the call's number; what they leave is allowed."""
    head = [(_LOAD, 0, 0, 4), (_EQUALS, 1, 0, machine.audit), (_ANSWER, 0, 0, _DENY), (_LOAD, 0, 0, 0)]
    head += [(_AT_LEAST, 0, 1, 0x40000000), (_ANSWER, 0, 0, _DENY)]  # the other numbering of an x86-64 kernel
    whole = [*head, *rules, (_ANSWER, 0, 0, _ALLOW)]
    program = b"".join(struct.pack("HBBI", *rule) for rule in whole)
    buffer = ctypes.create_string_buffer(program, len(program))
    block = struct.pack("HxxxxxxP", len(whole), ctypes.addressof(buffer))
    flags = ctypes.c_ulong(_SECCOMP_TSYNC)
    checked(libc_here().syscall(machine.seccomp, _SECCOMP_SET_MODE_FILTER, flags, ctypes.c_char_p(block)))


def this_machine() -> Machine:
    """Raises OSError for a processor whose numbers are not known."""
    try:
        return _MACHINES[platform.machine()]
    except KeyError:
        raise OSError(errno.ENOSYS, f"not known for {platform.machine()}") from None


def libc_here() -> ctypes.CDLL:
    """The C library of this process."""
    return ctypes.CDLL(None, use_errno=True)


def checked(answer: int) -> int:
    """What a call answered; raises OSError where it failed."""
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return answer
