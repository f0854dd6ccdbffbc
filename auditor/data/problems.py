"""Collecting everything that is wrong with a data set, so that a person can mend it in one go."""

from __future__ import annotations

from collections.abc import Sequence

from auditor.errors import InvalidInput

MAX_NAMES = 20
"""Names listed per kind of problem; the rest is counted."""


class Problems:
    """What is wrong with one data set.

    Args:
        where: put before every problem, e.g. `private (faces/)`.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._found: list[str] = []

    def __len__(self) -> int:
        return len(self._found)

    def add(self, problem: str) -> None:
        """One problem, in a sentence."""
        self._found.append(f"{self._where}: {problem}")

    def add_names(self, problem: str, names: Sequence[str]) -> None:
        """One problem of several things; nothing is added when there are no names."""
        if names:
            more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
            self.add(f"{problem}: {', '.join(names[:MAX_NAMES])}{more}")

    def raise_if_any(self) -> None:
        """Raise InvalidInput with everything found so far, if anything was."""
        if self._found:
            raise InvalidInput(self._found)
