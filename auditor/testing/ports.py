"""In-memory store, queue, clock and runner; the database is in `auditor.testing.database`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from auditor.contracts.base import digest_of
from auditor.contracts.jobs import Finished, RunnerMessage, UnitSpec
from auditor.errors import Cancelled, NotFound, StorageFailure
from auditor.service.records import StoredArtifact
from auditor.service.session import Handler, Session
from auditor.service.workspace import Workspace

R = TypeVar("R")


class InMemoryStore:
    """Artifacts in a dictionary.

    Attributes:
        full: as if the disk were full.
    """

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.full = False

    def put_file(self, path: Path) -> str:
        """Store a file."""
        return self.put_bytes(path.read_bytes())

    def put_bytes(self, data: bytes) -> str:
        """Store bytes."""
        if self.full:
            raise StorageFailure("an artifact could not be stored: no space left on device")
        digest = digest_of(data)
        self.blobs[digest] = data
        return digest

    def get_path(self, digest: str, destination: Path) -> None:
        """Copy a blob to `destination`."""
        destination.parent.mkdir(parents=True, exist_ok=True)
        destination.write_bytes(self.get_bytes(digest))

    def get_bytes(self, digest: str) -> bytes:
        """A blob's bytes."""
        if digest not in self.blobs:
            raise NotFound(f"artifact {digest} is not in the store")
        return self.blobs[digest]

    def exists(self, digest: str) -> bool:
        """Whether the blob is stored."""
        return digest in self.blobs

    def delete(self, digest: str, before: datetime | None = None) -> bool:
        """Forget the blob, which is as old as anybody may want."""
        return self.blobs.pop(digest, None) is not None

    def list(self) -> Iterator[StoredArtifact]:
        """Everything, as if it had been there for long."""
        long_ago = datetime(2000, 1, 1, tzinfo=UTC)
        return (StoredArtifact(digest, len(data), long_ago) for digest, data in list(self.blobs.items()))

    def tidy(self, before: datetime) -> None:
        """Writers leave nothing here."""


class InMemoryQueue:
    """Keeps what was announced.

    Attributes:
        sent: unit ids, oldest first.
        down: as if the broker could not be reached.
    """

    def __init__(self) -> None:
        self.sent: deque[str] = deque()
        self.down = False

    def enqueue(self, unit_id: str) -> None:
        """Remember the unit."""
        if self.down:
            raise StorageFailure("the broker could not be reached")
        self.sent.append(unit_id)

    def backlog(self) -> int:
        """What nobody took."""
        if self.down:
            raise StorageFailure("the broker could not be reached")
        return len(self.sent)


class SetClock:
    """A clock that stands still until it is moved; sleeping moves it."""

    def __init__(self, start: datetime = datetime(2030, 1, 1, tzinfo=UTC)) -> None:
        self._now = start

    def now(self) -> datetime:
        """The set time."""
        return self._now

    def sleep(self, seconds: float) -> None:
        """Move on."""
        self._now += timedelta(seconds=seconds)


class InProcessRunner:
    """Runs handlers in this process: for tests of what is around the runner.

    Args:
        handlers: by unit kind.
        cache: folder of the teams' content caches.
    """

    def __init__(self, handlers: Mapping[str, Handler], cache: Path) -> None:
        self._handlers = handlers
        self._cache = cache
        self.ran: list[str] = []

    def run(
        self,
        unit: UnitSpec,
        root: Path,
        *,
        team_id: str,
        on_message: Callable[[RunnerMessage], None],
        should_stop: Callable[[], bool],
    ) -> Finished:
        """Call the unit's handler; what it raises goes through as it is."""
        if should_stop():
            raise Cancelled("the job was cancelled")
        self.ran.append(unit.key)
        workspace = Workspace(root, self._cache / team_id)
        value = self._handlers[unit.kind](unit, workspace, Session(workspace, "cpu", on_message))
        outputs = root / "outputs"
        names = tuple(sorted(path.name for path in outputs.iterdir())) if outputs.is_dir() else ()
        return Finished(value=value, outputs=names, seconds=1.0, peak_memory_bytes=1 << 20)
