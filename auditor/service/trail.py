"""The audit log: written in the transaction of what it tells of."""

from __future__ import annotations

import secrets
from datetime import datetime

from auditor.service.accounts import Trail, User
from auditor.service.repositories import UnitOfWork


def note(tx: UnitOfWork, user: User, what: str, subject: str, now: datetime, **detail: str) -> None:
    """Add a line.

    Args:
        tx: the transaction.
        user: who did it.
        what: noun and verb, `waiver.create`.
        subject: id or name of what it was done to.
        now: the time.
        detail: more, where the subject alone does not tell it.
    """
    tx.trail.add(Trail(secrets.token_hex(16), now, user.team_id, user.name, what, subject, dict(detail)))


def note_stranger(tx: UnitOfWork, team_id: str, what: str, subject: str, now: datetime, **detail: str) -> None:
    """Add a line about somebody who is no person here; whatever they are called elsewhere is told as the subject."""
    tx.trail.add(Trail(secrets.token_hex(16), now, team_id, "(nobody)", what, subject, dict(detail)))
