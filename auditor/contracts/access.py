"""How much of a target an attacker reaches."""

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
