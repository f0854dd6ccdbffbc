"""How much of a target an attacker reaches."""

from __future__ import annotations

from enum import StrEnum


class Access(StrEnum):
    """Access levels, strongest first."""

    WHITE_BOX = "white-box"
    """Weights and gradients."""
    SPLIT = "split"
    """Intermediate features."""
    SCORE = "score"
    """Class scores only."""
    LABEL = "label"
    """The winning class only."""

    @property
    def rank(self) -> int:
        """0 (white-box, reaches most) to 3 (label)."""
        return list(Access).index(self)

    def covers(self, other: Access) -> bool:
        """Whether an attack with this access speaks for a deployment that offers `other`.

        Split access stands apart: who reads activations rebuilds the one image behind them, and who asks the whole
        model rebuilds a class. Neither says anything about the other.
        """
        if Access.SPLIT in (self, other):
            return self is other
        return self.rank <= other.rank
