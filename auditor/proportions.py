"""A share of independent trials: its interval, and the test of whether it exceeds a rate. The standard library only."""

from __future__ import annotations

import math
from collections.abc import Iterable

Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the standard normal."""


def wilson(p: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % bounds for a share `p` of `n` independent trials (`n` may be fractional; 0: nothing is known).

    Wilson, JASA 1927.
    """
    if n <= 0:
        return 0.0, 1.0
    z2 = Z95 * Z95
    centre = p + z2 / (2 * n)
    half = Z95 * math.sqrt(max(p * (1 - p), 0.0) / n + z2 / (4 * n * n))
    return max(0.0, (centre - half) / (1 + z2 / n)), min(1.0, (centre + half) / (1 + z2 / n))


def binomial_tail(successes: int, trials: int, p: float) -> float:
    """P(X >= successes) for X ~ Binomial(trials, p), up to rounding.

    Summed away from the mode, on the side of it where `successes` lies, until nothing more is added.
    """
    if successes <= 0:
        return 1.0
    if successes > trials or p <= 0:
        return 0.0
    if p >= 1:
        return 1.0
    if successes > (trials + 1) * p:
        return min(1.0, _sum_of_terms(range(successes, trials + 1), trials, p))
    return max(0.0, 1.0 - _sum_of_terms(range(successes - 1, -1, -1), trials, p))


def _sum_of_terms(counts: Iterable[int], trials: int, p: float) -> float:
    """P(X = k) over `counts`, which lead away from the mode."""
    total = 0.0
    for k in counts:
        ways = math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1)
        term = math.exp(ways + k * math.log(p) + (trials - k) * math.log1p(-p))
        total += term
        if term <= total * 1e-17:
            break
    return total
