"""Artifacts in a local folder, named by their content."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from auditor.errors import NotFound, StorageFailure

_CHUNK = 1 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}")


class LocalStore:
    """A folder of blobs, `ab/abcdef...`; a file appears only when it is complete and on disk.

    Args:
        root: the folder; made when first written to.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def put_file(self, path: Path) -> str:
        """Store a file; returns its digest."""
        try:
            with path.open("rb") as source:
                return self._put(lambda: source.read(_CHUNK))
        except OSError as error:
            raise _failure("stored", error) from error

    def put_bytes(self, data: bytes) -> str:
        """Store bytes; returns their digest."""
        parts = iter((data, b""))
        try:
            return self._put(lambda: next(parts))
        except OSError as error:
            raise _failure("stored", error) from error

    def get_path(self, digest: str, destination: Path) -> None:
        """Write a checked copy of the blob to `destination`."""
        try:
            destination.parent.mkdir(parents=True, exist_ok=True)
            with self._open(digest) as source, destination.open("wb") as target:
                _copy_checked(source, target.write, digest)
        except OSError as error:
            destination.unlink(missing_ok=True)
            raise _failure("read", error) from error
        except StorageFailure:
            destination.unlink(missing_ok=True)
            raise

    def get_bytes(self, digest: str) -> bytes:
        """The blob's bytes, checked."""
        parts: list[bytes] = []
        try:
            with self._open(digest) as source:
                _copy_checked(source, parts.append, digest)
        except OSError as error:
            raise _failure("read", error) from error
        return b"".join(parts)

    def exists(self, digest: str) -> bool:
        """Whether the blob is stored."""
        return self._path(digest).is_file()

    def _path(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise NotFound(f"'{digest[:80]}' is not an artifact digest")
        return self._root / digest[:2] / digest

    @contextmanager
    def _open(self, digest: str) -> Iterator[BinaryIO]:
        try:
            handle = self._path(digest).open("rb")
        except FileNotFoundError:
            raise NotFound(
                f"artifact {digest} is not in the store", remedy="Submit the audit again with `--fresh`."
            ) from None
        with handle:
            yield handle

    def _put(self, read: Callable[[], bytes]) -> str:
        """Copy to a temporary file beside its place, flush it to disk, then rename: complete or absent, never half."""
        folder = self._root / "tmp"
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=folder)
        temporary = Path(name)
        try:
            sha = hashlib.sha256()
            with os.fdopen(descriptor, "wb") as target:
                while part := read():
                    sha.update(part)
                    target.write(part)
                target.flush()
                os.fsync(target.fileno())
            digest = sha.hexdigest()
            place = self._path(digest)
            place.parent.mkdir(parents=True, exist_ok=True)
            temporary.chmod(0o400)
            temporary.replace(place)
            _flush_folder(place.parent)
        finally:
            temporary.unlink(missing_ok=True)
        return digest


def _copy_checked(source: BinaryIO, write: Callable[[bytes], object], digest: str) -> None:
    sha = hashlib.sha256()
    while part := source.read(_CHUNK):
        sha.update(part)
        write(part)
    if sha.hexdigest() != digest:
        raise StorageFailure(
            f"artifact {digest} is damaged: its bytes no longer match its name",
            remedy="Delete that file from the artifact folder, check the disk, and submit again with `--fresh`.",
        )


def _flush_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _failure(verb: str, error: OSError) -> StorageFailure:
    return StorageFailure(f"an artifact could not be {verb}: {error.strerror or error}")
