"""Locks on what is no row, or none yet."""

from __future__ import annotations

import hashlib

from sqlalchemy import text
from sqlalchemy.orm import Session


def take_turns(session: Session, name: str) -> None:
    """Hold the lock of this name until the transaction ends; on SQLite every transaction keeps all others out."""
    if session.get_bind().dialect.name == "postgresql":
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
        session.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": number})
