"""Idempotency keys: the answer to a request is kept, so that a client which lost it may simply ask again."""

from __future__ import annotations

import hashlib
from datetime import timedelta

from auditor.contracts.base import digest_of
from auditor.errors import Conflict, InvalidInput
from auditor.service.accounts import Answer
from auditor.service.people import Identity
from auditor.service.ports import Clock
from auditor.service.repositories import Database

KEPT_FOR = timedelta(days=1)
ABANDONED_AFTER = timedelta(minutes=30)
"""An answer that did not come within this time never will: the process died."""


class Replay:
    """One key of one person.

    Args:
        database: the database.
        clock: the time.
        identity: who asks.
        key: as they sent it.
    """

    def __init__(self, database: Database, clock: Clock, identity: Identity, key: str) -> None:
        if not 1 <= len(key) <= 200:
            raise InvalidInput("the header Idempotency-Key has 1 to 200 characters")
        self._transactions = database.of_team(identity.team.id)
        self._clock = clock
        self._team_id = identity.team.id
        self._id = digest_of([identity.user.id, key])

    def begin(self, method: str, path: str, body: bytes) -> tuple[int, str] | None:
        """Status and body of the first answer; None: this request is the first, and is now being worked on.

        Raises:
            Conflict: the first one is still being worked on.
            InvalidInput: the key was used for another request.
        """
        digest = hashlib.sha256(f"{method} {path}\n".encode() + body).hexdigest()
        now = self._clock.now()
        with self._transactions() as tx:
            found = tx.answers.find(id=self._id)
            if found is not None:
                kept = KEPT_FOR if found.status is not None else ABANDONED_AFTER
                if found.created_at + kept < now:
                    tx.answers.remove(found.id)
                    found = None
            if found is None:
                tx.answers.add(Answer(self._id, now, self._team_id, digest))
                return None
        if found.digest != digest:
            raise InvalidInput("this Idempotency-Key was used for another request", remedy="Use a new key.")
        if found.status is None:
            raise Conflict("the first request with this Idempotency-Key is still being worked on")
        return found.status, found.body

    def keep(self, status: int, body: bytes) -> None:
        """This is the answer."""
        with self._transactions() as tx:
            tx.answers.change(self._id, status=status, body=body.decode())

    def forget(self) -> None:
        """It failed: the same request may be tried again."""
        with self._transactions() as tx:
            tx.answers.remove(self._id)
