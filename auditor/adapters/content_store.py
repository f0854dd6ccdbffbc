"""Artifacts, named by their content, in any kind of blobs; encrypted where there are keys."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from auditor.adapters.blobs import Blobs, Readable
from auditor.adapters.sealing import MAGIC, Sealer
from auditor.errors import NotFound, StorageFailure
from auditor.service.records import StoredArtifact

_PART = 1 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}")
_HEADER = len(MAGIC) + 16


class ContentStore:
    """Content-addressed artifacts. What is read is checked against its name, whatever the blobs lie in.

    Args:
        blobs: where the bytes are.
        sealer: encrypts what is stored; None: it is stored as it is. What was stored before either way can be read.
    """

    def __init__(self, blobs: Blobs, sealer: Sealer | None = None) -> None:
        self._blobs, self._sealer = blobs, sealer

    def put_file(self, path: Path) -> str:
        """Store a file; returns its digest."""
        try:
            with path.open("rb") as source:
                return self._put(source)
        except OSError as error:
            raise _failure("stored", error) from error

    def put_bytes(self, data: bytes) -> str:
        """Store bytes; returns their digest."""
        return self._put(io.BytesIO(data))

    def get_path(self, digest: str, destination: Path) -> None:
        """Write a checked copy of the blob to `destination`."""
        try:
            destination.parent.mkdir(parents=True, exist_ok=True)
            with self._open(digest) as source, destination.open("wb") as target:
                _copy_checked(source, target.write, digest)
        except OSError as error:
            destination.unlink(missing_ok=True)
            raise _failure("read", error) from error
        except (NotFound, StorageFailure):
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
        return self._blobs.exists(_checked(digest))

    def delete(self, digest: str, before: datetime | None = None) -> bool:
        """Forget the blob, unless it was stored (again) since `before`; returns whether it was there and is gone."""
        return self._blobs.delete(_checked(digest), before)

    def list(self) -> Iterator[StoredArtifact]:
        """Every artifact."""
        return (blob for blob in self._blobs.list() if _DIGEST.fullmatch(blob.digest))

    def tidy(self, before: datetime) -> None:
        """Delete what writers left that began before this and died."""
        self._blobs.tidy(before)

    def _put(self, source: io.BufferedIOBase) -> str:
        """Read twice: for the name, and to store; a file that changes between is refused before it gets the name."""
        digest = hashlib.file_digest(source, "sha256").hexdigest()
        source.seek(0)
        same = _Unchanged(source, digest)
        self._blobs.write(digest, self._sealer.seal(digest, same) if self._sealer else same)
        return digest

    @contextmanager
    def _open(self, digest: str) -> Iterator[Readable]:
        try:
            with self._blobs.open(_checked(digest)) as source:
                yield self._plain(digest, source)
        except NotFound:
            raise NotFound(
                f"artifact {digest[:80]} is not in the store",
                remedy="The team's retention may have deleted it: submit model and data again with `--fresh`.",
            ) from None

    def _plain(self, digest: str, source: Readable) -> Readable:
        header = b""
        while len(header) < _HEADER and (part := source.read(_HEADER - len(header))):
            header += part
        if not header.startswith(MAGIC):
            return _After(header, source)
        if self._sealer is None:
            raise StorageFailure(
                "an artifact is encrypted and no key is configured", remedy="Set AUDITOR_ENCRYPTION_KEYS."
            )
        return self._sealer.open(digest, header, source)


class _Unchanged:
    """Raises at the end of what is read through it unless it has this digest."""

    def __init__(self, source: io.BufferedIOBase, digest: str) -> None:
        self._source, self._digest, self._sha = source, digest, hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes; fewer only at the end."""
        part = self._source.read(size)
        self._sha.update(part)
        if (size < 0 or len(part) < size) and self._sha.hexdigest() != self._digest:
            raise StorageFailure("a file changed while it was stored", remedy="Submit it again when it is complete.")
        return part


class _After:
    """What was read already, then the rest."""

    def __init__(self, first: bytes, rest: Readable) -> None:
        self._first, self._rest = first, rest

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes."""
        if self._first:
            given, self._first = self._first, b""
            return given
        return self._rest.read(size)


def _checked(digest: str) -> str:
    if not _DIGEST.fullmatch(digest):
        raise NotFound(f"'{digest[:80]}' is not an artifact digest")
    return digest


def _copy_checked(source: Readable, write: Callable[[bytes], object], digest: str) -> None:
    sha = hashlib.sha256()
    while part := source.read(_PART):
        sha.update(part)
        write(part)
    if sha.hexdigest() != digest:
        raise StorageFailure(
            f"artifact {digest} is damaged: its bytes no longer match its name",
            remedy="Delete it from the artifact store, check the disk, and submit again with `--fresh`.",
        )


def _failure(verb: str, error: OSError) -> StorageFailure:
    return StorageFailure(f"an artifact could not be {verb}: {error.strerror or error}")
