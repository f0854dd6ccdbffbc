"""Blobs in a local folder."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from auditor.adapters.blobs import Readable
from auditor.errors import NotFound, StorageFailure
from auditor.service.records import StoredArtifact

_PART = 1 << 20
_UNFINISHED = "tmp"


class LocalBlobs:
    """A folder of files, `ab/abcdef...`; a file appears only when it is complete and on disk.

    Args:
        root: the folder; made when first written to.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def write(self, name: str, source: Readable) -> None:
        """Copy to a temporary file, flush it to disk, then rename: complete or absent, never half."""
        try:
            self._write(name, source)
        except OSError as error:
            raise _failure("stored", error) from error

    @contextmanager
    def open(self, name: str) -> Iterator[Readable]:
        """The bytes."""
        try:
            handle = self._path(name).open("rb")
        except FileNotFoundError:
            raise NotFound(f"there is no blob '{name}'") from None
        except OSError as error:
            raise _failure("read", error) from error
        with handle:
            yield handle

    def exists(self, name: str) -> bool:
        """Whether it is stored."""
        return self._path(name).is_file()

    def delete(self, name: str, before: datetime | None = None) -> bool:
        """Forget it; nobody writes it between the look at its time and this."""
        try:
            with self._turn():
                if before is not None and self._path(name).stat().st_mtime > before.timestamp():
                    return False
                self._path(name).unlink()
                return True
        except FileNotFoundError:
            return False
        except OSError as error:
            raise _failure("deleted", error) from error

    def list(self) -> Iterator[StoredArtifact]:
        """All of them; unfinished files of writers that died are left out."""
        for path in self._root.glob("??/*"):
            if (found := self._info(path.name)) is not None:  # else deleted meanwhile
                yield found

    def tidy(self, before: datetime) -> None:
        """Delete unfinished files that nobody has written to since."""
        for path in (self._root / _UNFINISHED).glob("*"):
            try:
                if path.stat().st_mtime < before.timestamp():
                    path.unlink(missing_ok=True)
            except FileNotFoundError:  # its writer goes on
                continue
            except OSError as error:
                raise _failure("deleted", error) from error

    def _info(self, name: str) -> StoredArtifact | None:
        """Size and time of one; None where it is not there."""
        try:
            facts = self._path(name).stat()
        except FileNotFoundError:
            return None
        return StoredArtifact(name, facts.st_size, datetime.fromtimestamp(facts.st_mtime, UTC))

    def _path(self, name: str) -> Path:
        return self._root / name[:2] / name

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """One at a time gives a name to a file or takes one away, of all processes."""
        descriptor = os.open(self._root, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _write(self, name: str, source: Readable) -> None:
        folder = self._root / _UNFINISHED
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, temporary_name = tempfile.mkstemp(dir=folder)
        temporary = Path(temporary_name)
        try:
            with os.fdopen(descriptor, "wb") as target:
                while part := source.read(_PART):
                    target.write(part)
                target.flush()
                os.fsync(target.fileno())
            place = self._path(name)
            place.parent.mkdir(parents=True, exist_ok=True)
            temporary.chmod(0o400)
            with self._turn():
                temporary.replace(place)
            _flush_folder(place.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _failure(verb: str, error: OSError) -> StorageFailure:
    return StorageFailure(f"an artifact could not be {verb}: {error.strerror or error}")
