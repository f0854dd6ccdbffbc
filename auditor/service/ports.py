"""Ports: what the use-cases need from the world. Adapters implement these; tests use in-memory ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Protocol

from auditor.contracts.jobs import Finished, RunnerMessage, UnitSpec
from auditor.service.records import StoredArtifact


class ArtifactStore(Protocol):
    """Content-addressed blobs: a digest is the sha256 of the bytes, so nothing stored ever changes."""

    def put_file(self, path: Path) -> str:
        """Store a file; returns its digest. Raises StorageFailure, with nothing half-written, when it cannot."""
        ...

    def put_bytes(self, data: bytes) -> str:
        """Store bytes; returns their digest."""
        ...

    def get_path(self, digest: str, destination: Path) -> None:
        """Write a checked copy of the blob to `destination`.

        Raises:
            NotFound: no such blob.
            StorageFailure: it cannot be read, or its bytes no longer match the digest.
        """
        ...

    def get_bytes(self, digest: str) -> bytes:
        """The blob's bytes, checked; raises like `get_path`."""
        ...

    def exists(self, digest: str) -> bool:
        """Whether the blob is stored."""
        ...

    def delete(self, digest: str, before: datetime | None = None) -> bool:
        """Forget the blob, unless it was stored (again) since `before`; returns whether it was there and is gone."""
        ...

    def list(self) -> Iterator[StoredArtifact]:
        """Everything that is stored, in no order."""
        ...

    def tidy(self, before: datetime) -> None:
        """Delete what writers left that began before this and died: it is not among what is stored."""
        ...


class JobQueue(Protocol):
    """Wakes workers, which then ask the database whose turn it is. It may wake them twice or never."""

    def enqueue(self, unit_id: str) -> None:
        """Announce a unit; raises StorageFailure when the broker cannot be reached."""
        ...

    def backlog(self) -> int:
        """How many announcements no worker has taken yet; raises StorageFailure when the broker cannot be reached."""
        ...


class UnitRunner(Protocol):
    """Runs one unit in a process of its own."""

    def run(
        self,
        unit: UnitSpec,
        root: Path,
        *,
        team_id: str,
        on_message: Callable[[RunnerMessage], None],
        should_stop: Callable[[], bool],
    ) -> Finished:
        """Run `unit` in the folder `root`, whose `inputs/` is filled, and leave its files in `outputs/`.

        Args:
            unit: what to do.
            root: scratch folder of this unit.
            team_id: whose unit it is: what it leaves in the cache no other team's unit ever reads.
            on_message: receives every progress and log message.
            should_stop: polled; True stops the process.

        Raises:
            Cancelled: it was stopped.
            RunnerFailure: the process died, ran out of time or broke its protocol.
            AuditorError: what the unit itself reported.
        """
        ...


class Clock(Protocol):
    """The time, so that tests can set it."""

    def now(self) -> datetime:
        """UTC, timezone-aware."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...
