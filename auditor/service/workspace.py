"""The folder a unit works in: what it may read, what it leaves, and the shared content cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from auditor.errors import InvalidInput


@dataclass(frozen=True)
class Workspace:
    """A unit's file system.

    Attributes:
        root: scratch folder of this unit, with `inputs/` and `outputs/`.
        cache: folder shared by all units of this installation, keyed by content; safe to delete at any time.
    """

    root: Path
    cache: Path

    def input(self, name: str) -> Path:
        """The input file called `name`; raises InvalidInput when the unit was not given it."""
        path = self.root / "inputs" / name
        if not path.exists():
            raise InvalidInput(f"the unit was not given '{name}'")
        return path

    def has(self, name: str) -> bool:
        """Whether the unit was given `name`."""
        return (self.root / "inputs" / name).exists()

    def output(self, name: str) -> Path:
        """Where to write the output file called `name`."""
        folder = self.root / "outputs"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name


UnitValue = dict[str, Any]
"""A unit's small JSON result."""
