"""The queue of an installation without a broker."""

from __future__ import annotations


class InlineQueue:
    """Nobody has to be told: whoever runs a job in place takes its pending units straight from the database."""

    def enqueue(self, unit_id: str) -> None:
        """Nothing to send."""

    def backlog(self) -> int:
        """Nothing was sent."""
        return 0
