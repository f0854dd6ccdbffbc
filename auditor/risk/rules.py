"""The number of the rules by which verdicts are given: it goes up with every change of what they may give."""

from __future__ import annotations

RULES = 1
"""A stored verdict of a lower number is judged anew; one of a higher number is left alone."""
