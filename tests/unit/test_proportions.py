"""Shares of independent trials: the card's numbers, and agreement with SciPy."""

from __future__ import annotations

import pytest
from scipy.stats import binom

from auditor.proportions import binomial_tail, wilson


def test_wilson_as_in_the_card():
    assert [round(wilson(0.0, n)[1], 3) for n in (10, 35, 60)] == [0.278, 0.099, 0.060]
    assert [round(bound, 3) for bound in wilson(0.3737, 3000)] == [0.357, 0.391]
    assert [round(bound, 3) for bound in wilson(0.3737, 171)] == [0.305, 0.448]
    assert wilson(0.3, 0) == (0.0, 1.0)


@pytest.mark.parametrize("p", [0.0, 1e-6, 0.03, 0.5, 0.98, 1.0])
@pytest.mark.parametrize("trials", [1, 7, 60, 1030, 1_000_000])
def test_the_tail_of_a_binomial_however_many_trials(trials, p):
    spread = [trials * p + k * (trials * p * (1 - p)) ** 0.5 for k in (-30, -3, -1, 0, 1, 3, 6, 30)]
    for successes in sorted({0, 1, trials, trials + 1, *(min(max(round(k), 0), trials) for k in spread)}):
        assert binomial_tail(successes, trials, p) == pytest.approx(
            binom.sf(successes - 1, trials, p), rel=1e-6, abs=1e-9
        )
