"""Garbage: artifacts that nothing stored refers to any more."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from auditor.errors import InvalidInput
from auditor.service.ports import ArtifactStore, Clock
from auditor.service.repositories import Transactions

LEAST_AGE = timedelta(hours=2)
"""Younger artifacts may belong to work whose transaction is still to come."""


@dataclass(frozen=True)
class Collected:
    """What a collection found.

    Attributes:
        kept: artifacts that something refers to, or that are too young.
        deleted: the others; with `dry_run` they are only counted.
        freed_bytes: their size.
    """

    kept: int
    deleted: int
    freed_bytes: int


class Garbage:
    """Collects garbage.

    Args:
        store: artifacts.
        transactions: the database, whose mentions of a digest keep an artifact.
        clock: the time.
    """

    def __init__(self, *, store: ArtifactStore, transactions: Transactions, clock: Clock) -> None:
        self._store, self._transactions, self._clock = store, transactions, clock

    def collect(self, older_than: timedelta, *, dry_run: bool = False) -> Collected:
        """Delete artifacts older than this that nothing refers to, and what writers left that died a day ago or longer.

        The artifacts are listed before the references are read, and what is stored again meanwhile is young again.

        Raises:
            InvalidInput: `older_than` is under two hours.
        """
        if older_than < LEAST_AGE:
            raise InvalidInput(
                f"artifacts younger than {LEAST_AGE} may be in use",
                remedy="Collect older ones: `--older-than 2h` or more; nothing was deleted.",
            )
        blobs = list(self._store.list())
        with self._transactions() as tx:
            mentioned = tx.references.mentioned()
        oldest = self._clock.now() - older_than
        waste = [blob for blob in blobs if blob.digest not in mentioned and blob.modified < oldest]
        if not dry_run:
            for blob in waste:
                delete_old(self._store, blob.digest, self._clock)
            self._store.tidy(min(oldest, self._clock.now() - timedelta(days=1)))
        return Collected(len(blobs) - len(waste), len(waste), sum(blob.size for blob in waste))


def delete_old(store: ArtifactStore, digest: str, clock: Clock) -> bool:
    """Delete an artifact unless it was stored, or stored again, within `LEAST_AGE`; returns whether it is gone now."""
    return store.delete(digest, clock.now() - LEAST_AGE)
