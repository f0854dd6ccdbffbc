"""Idempotency keys: the answer to a request is kept, so that a client which lost it may simply ask again."""

from __future__ import annotations

import hmac
from contextlib import suppress
from datetime import datetime, timedelta

from auditor.contracts.base import digest_of
from auditor.errors import Conflict, InvalidInput, StorageFailure, UnderWay
from auditor.service.accounts import Answer
from auditor.service.people import Identity
from auditor.service.ports import Clock
from auditor.service.repositories import Database

KEPT_FOR = timedelta(days=1)
_UNDER_WAY = "the first request with this Idempotency-Key is still being worked on"


class Replay:
    """One key of one person.

    Args:
        database: the database.
        clock: the time.
        identity: who asks.
        key: as they sent it.
        lease: a request that did not show for this long that it is still worked on was so by a process that died.
        signing_key: the server's; what is kept of a body, which may hold a password, tells nothing without it.
    """

    def __init__(
        self, database: Database, clock: Clock, identity: Identity, key: str, lease: timedelta, signing_key: bytes
    ) -> None:
        if not 1 <= len(key) <= 200:
            raise InvalidInput("the header Idempotency-Key has 1 to 200 characters")
        self._transactions = database.of_team(identity.team.id)
        self._clock = clock
        self._team_id = identity.team.id
        self._id = digest_of([identity.user.id, key])
        self._lease = lease
        self._signing_key = signing_key
        self._shown_at = clock.now()
        self._is_heir = False

    @property
    def is_heir(self) -> bool:
        """Whether another process worked on the request before and died: what it asks for may be done already."""
        return self._is_heir

    def request_id(self, method: str, path: str, body: bytes) -> str:
        """The same for every repetition of this request, and for nothing else: what it makes is named by it."""
        return digest_of([self._id, self._digest(method, path, body)])[:32]

    def begin(self, method: str, path: str, body: bytes) -> tuple[int, str] | None:
        """Status and body of the first answer; None: the request is now this process's to work on.

        Raises:
            UnderWay: another process works on it.
            InvalidInput: the key was used for another request.
        """
        try:
            return self._begin(self._digest(method, path, body))
        except UnderWay:
            raise
        except Conflict:  # another process looked at the same time, and was the first to write
            raise UnderWay(_UNDER_WAY) from None

    def _begin(self, digest: str) -> tuple[int, str] | None:
        now = self._clock.now()
        with self._transactions() as tx:
            found = tx.answers.find(id=self._id)
            if found is None:
                tx.answers.add(Answer(self._id, now, self._team_id, digest))
            elif self._is_free(found, digest, now):
                changes = {"created_at": now, "digest": digest, "status": None, "body": ""}
                if not tx.answers.change(self._id, {"created_at": found.created_at}, **changes):
                    raise UnderWay(_UNDER_WAY)
                self._is_heir, found = found.status is None and found.digest == digest, None
        if found is None:
            self._shown_at = now
            return None
        if found.digest != digest:
            raise InvalidInput("this Idempotency-Key was used for another request", remedy="Use a new key.")
        if found.status is None:
            raise UnderWay(_UNDER_WAY)
        return found.status, found.body

    def _is_free(self, found: Answer, digest: str, now: datetime) -> bool:
        """Whether the key may be taken: by its own request once nobody works on it, by another once a day is over."""
        age = now - found.created_at
        return age > (self._lease if found.status is None else KEPT_FOR) and (found.digest == digest or age > KEPT_FOR)

    def renew(self) -> None:
        """It is still being worked on."""
        now = self._clock.now()
        with self._transactions() as tx:
            if tx.answers.change(self._id, self._mine, created_at=now):
                self._shown_at = now

    def keep(self, status: int, body: bytes) -> None:
        """This is the answer. One that cannot be kept is given all the same: it is true."""
        with suppress(StorageFailure), self._transactions() as tx:
            tx.answers.change(self._id, self._mine, status=status, body=body.decode())

    def forget(self) -> None:
        """It failed: the same request may be tried again, by an heir again where this was one."""
        with suppress(StorageFailure), self._transactions() as tx:
            if self._is_heir:
                ended = self._clock.now() - self._lease - timedelta.resolution
                tx.answers.change(self._id, self._mine, created_at=ended)
            else:
                tx.answers.remove(self._id, self._mine)

    @property
    def _mine(self) -> dict[str, object]:
        """How the row looks as long as no other process took over."""
        return {"created_at": self._shown_at, "status": None}

    def _digest(self, method: str, path: str, body: bytes) -> str:
        return hmac.digest(self._signing_key, f"idempotency {method} {path}\n".encode() + body, "sha256").hex()
