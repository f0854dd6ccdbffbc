"""A content-addressed folder cache for priors, evaluators and judges; safe to delete at any time."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from auditor.contracts.base import code_digest, digest_of, digest_of_file
from auditor.errors import StorageFailure

_SEAL = "complete.json"


class ContentCache:
    """Entries are folders `root/kind/key`, whole or absent.

    The key is a digest of everything the entry was made from and of the project's own code, so an entry never has to
    be thrown away to stay right. Each entry carries a seal with the digest of every file; an entry whose files do not
    match it, or that has none, is built again. Processes that want one entry at the same time wait for each other.

    Args:
        root: folder of the cache, made when needed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def load_or_build(
        self, kind: str, key_parts: Mapping[str, Any], build: Callable[[Path, Path], None]
    ) -> tuple[Path, bool]:
        """The entry's folder, and whether it was there already.

        Args:
            kind: what the entry is (`prior`, `evaluator`, ...); a folder name.
            key_parts: JSON-ready; everything that decides the content: weights, data and its order, configuration.
            build: fills the first folder it is given, which is empty; when it raises, nothing of it is kept. The second
                is for checkpoints: it stays until a build of this entry succeeds, however the process ends.

        Raises:
            StorageFailure: the folder cannot be written, or the disk is full.
        """
        key = digest_of({**key_parts, "code": code_digest()})
        entry = self.root / kind / key
        with _storage_errors(entry):
            entry.parent.mkdir(parents=True, exist_ok=True)
            with _lock(entry.parent / f".{key}.lock"):
                if _is_whole(entry):
                    return entry, True
                _build(entry, build)
        return entry, False

    def forget(self, kind: str, before: datetime) -> int:
        """Delete the entries of a kind that were made before a time, and what unfinished builds left; returns how many.

        An entry that is being built is left as it is.
        """
        found = 0
        for path in [path for path in (self.root / kind).glob("*") if path.suffix != ".lock"]:
            key = path.name.strip(".").partition(".")[0]
            lock = _lock(path.parent / f".{key}.lock", wait=False)
            with _storage_errors(path.parent / key), suppress(BlockingIOError, FileNotFoundError), lock:
                if path.stat().st_mtime < before.timestamp():
                    shutil.rmtree(path, ignore_errors=True)
                    found += 1
        return found


def _build(entry: Path, build: Callable[[Path, Path], None]) -> None:
    """Fill a folder beside `entry`, seal it and move it into place; called under the entry's lock."""
    draft = entry.parent / f".{entry.name}.draft"
    for leftover in (draft, entry):
        if leftover.exists():
            shutil.rmtree(leftover)
    unfinished = entry.parent / f".{entry.name}.unfinished"
    draft.mkdir()
    unfinished.mkdir(exist_ok=True)
    try:
        build(draft, unfinished)
        files = {path.relative_to(draft).as_posix(): digest_of_file(path) for path in _files(draft)}
        (draft / _SEAL).write_text(json.dumps({"files": files}, sort_keys=True))
        draft.rename(entry)
        shutil.rmtree(unfinished, ignore_errors=True)
    except BaseException:
        with suppress(OSError):
            unfinished.rmdir()  # only where nothing was left in it
        raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _is_whole(entry: Path) -> bool:
    """Whether the entry is sealed and every file is as it was sealed."""
    try:
        files = json.loads((entry / _SEAL).read_text())["files"]
        present = {path.relative_to(entry).as_posix() for path in _files(entry)} - {_SEAL}
        return present == set(files) and all(digest_of_file(entry / name) == files[name] for name in files)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


@contextmanager
def _lock(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold an exclusive lock, released by the system when the process ends however it ends.

    Raises:
        BlockingIOError: somebody else holds it, and this is not to `wait`.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _storage_errors(entry: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else (error.strerror or str(error))
        raise StorageFailure(f"cache entry {entry.parent.name}/{entry.name[:12]} cannot be used: {reason}") from error
