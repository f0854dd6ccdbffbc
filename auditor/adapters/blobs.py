"""What a content store keeps its bytes in: named blobs that appear whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Protocol

from auditor.service.records import StoredArtifact


class Readable(Protocol):
    """Something that is read in parts."""

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes; empty at the end."""
        ...


class Blobs(Protocol):
    """Named blobs. Raises StorageFailure where nothing else is named."""

    def write(self, name: str, source: Readable) -> None:
        """Store all that `source` gives; what is there under the name is replaced, and nothing is left half-written."""
        ...

    def open(self, name: str) -> AbstractContextManager[Readable]:
        """The bytes; raises NotFound."""
        ...

    def exists(self, name: str) -> bool:
        """Whether it is stored."""
        ...

    def delete(self, name: str, before: datetime | None = None) -> bool:
        """Forget it, unless it was written since `before`; returns whether it was there and is gone."""
        ...

    def list(self) -> Iterator[StoredArtifact]:
        """All of them, in no order."""
        ...

    def tidy(self, before: datetime) -> None:
        """Delete what writers left that began before this and died."""
        ...
