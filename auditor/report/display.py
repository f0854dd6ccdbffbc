"""How machine formats show findings: where they are anchored, and which are left out. No verdict depends on it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from auditor.contracts.policy import RiskLevel
from auditor.errors import InvalidInput

DEFAULT_ANCHOR = "auditor.yaml"


@dataclass(frozen=True, slots=True)
class Display:
    """What a person or a CI job asked for.

    Attributes:
        anchor: a committed file, relative to the repository, on whose first line findings are shown.
        min_severity: findings under this level are left out, unless the gate fails by them.
    """

    anchor: str = DEFAULT_ANCHOR
    min_severity: RiskLevel = RiskLevel.LOW

    def __post_init__(self) -> None:
        path = PurePosixPath(self.anchor.replace("\\", "/"))
        outside = path.is_absolute() or ".." in path.parts or re.match(r"^[A-Za-z][A-Za-z0-9+.-]*:", self.anchor)
        if outside or not path.parts:
            raise InvalidInput(
                f"--anchor: '{self.anchor}' is not a path inside the repository",
                remedy="Name a committed file relative to the repository's root, such as the manifest.",
            )
        object.__setattr__(self, "anchor", path.as_posix())
