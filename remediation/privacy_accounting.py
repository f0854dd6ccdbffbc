"""What a training with DP-SGD spent: epsilon at a delta, by Opacus's accountants."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Accountant = Literal["prv", "rdp"]
_NUMERICAL = 100.0
"""An epsilon (by `rdp`) over which numerical composition takes gigabytes, and says nothing that matters any more."""


@dataclass(frozen=True)
class Spent:
    """What the accountant says.

    Attributes:
        epsilon: of one record; infinite without noise.
        delta: at which it holds.
        steps: noised steps.
        accountant: which one counted.
    """

    epsilon: float
    delta: float
    steps: int
    accountant: Accountant


def account(history: Sequence[tuple[float, float, int]], delta: float, accountant: Accountant) -> Spent:
    """Epsilon at `delta` of a history of (noise, Poisson rate, steps).

    Renyi moments give an upper bound in any case. Numerical composition gives a lower one and is asked where the first
    is moderate: beyond, its memory grows without limit.
    """
    steps = sum(count for _, _, count in history)
    if any(noise == 0 for noise, _, _ in history):
        return Spent(math.inf, delta, steps, accountant)
    epsilon = _epsilon(history, delta, "rdp")
    if accountant == "rdp" or epsilon > _NUMERICAL:
        return Spent(epsilon, delta, steps, "rdp")
    return Spent(_epsilon(history, delta, "prv"), delta, steps, "prv")


def _epsilon(history: Sequence[tuple[float, float, int]], delta: float, kind: Accountant) -> float:
    from opacus.accountants import create_accountant  # takes seconds

    accountant = create_accountant(kind)
    accountant.history = list(history)
    return float(accountant.get_epsilon(delta))
