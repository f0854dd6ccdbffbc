"""Folders for files on their way, whose names say whose they are; and what a parent may touch in that of a unit."""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from auditor.errors import RunnerFailure, StorageFailure

_OWNER = re.compile(r"[a-z]+-(?P<pid>\d+)\.(?P<born>\d+)@(?P<place>.+)-[^-]+")


def unit_folder(scratch: Path) -> tempfile.TemporaryDirectory[str]:
    """A new folder for one unit's files."""
    return own_folder(scratch, "unit")


def own_folder(scratch: Path, what: str) -> tempfile.TemporaryDirectory[str]:
    """A new folder of this process, gone when the block ends. Its name says whose it is, see `sweep`.

    Args:
        scratch: where.
        what: a word for people.
    """
    owner = f"{what}-{os.getpid()}.{_born(os.getpid())}@{_place()}-"
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(dir=scratch, prefix=owner)
    except OSError as error:
        raise StorageFailure(f"no folder for the {what}'s files could be made: {error.strerror}") from error


def sweep(scratch: Path, *, older_than_s: float) -> int:
    """Remove what processes left that were killed: private images may be among it. Returns how many folders.

    Args:
        scratch: the folder of all such folders; several machines may share it.
        older_than_s: a folder of another machine or container is removed after this long, which is longer than any
            unit runs.
    """
    found = 0
    for folder in scratch.glob("*-*@*"):
        owner = _OWNER.fullmatch(folder.name)
        with suppress(OSError):  # another process sweeps too
            here = owner is not None and owner["place"] == _place()
            dead = owner is not None and here and _born(int(owner["pid"])) != owner["born"]
            if dead or (not here and time.time() - folder.stat().st_mtime > older_than_s):
                shutil.rmtree(folder)
                found += 1
    return found


def _place() -> str:
    """Where process numbers mean what they mean here: the machine, and on Linux the namespace of a container."""
    try:
        return f"{Path('/proc/self/ns/pid').readlink().name.strip('pid:[]')}.{socket.gethostname()}"
    except OSError:
        return socket.gethostname()


def _born(pid: int) -> str:
    """When a process was started: its number alone may be another's by now, as 1 always is in a container."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return "0"


def inside(folder: Path, name: str) -> Path:
    """`folder / name`, where `name` is a plain file name: a child cannot make the parent read or write elsewhere."""
    if not name or name in (".", "..") or Path(name).name != name:
        raise RunnerFailure(f"'{name[:80]}' is not a plain file name")
    path = folder / name
    if folder.is_symlink() or path.is_symlink():
        raise RunnerFailure(f"the unit left a link, '{name}', instead of a file")
    if path.exists() and not path.is_file():
        raise RunnerFailure(f"the unit left '{name}', which is not a file")
    return path
