"""An interval as a stored score."""

from __future__ import annotations

from auditor.contracts.scores import Measured
from auditor.evaluation.intervals import Interval


def measured(
    metric: str, interval: Interval, n: int, *, unit: str = "frac", higher_is_riskier: bool = True
) -> Measured:
    """`interval` of `n` images under the name `metric`."""
    return Measured(
        metric=metric,
        value=interval.value,
        n=n,
        low=interval.low,
        high=interval.high,
        unit=unit,
        higher_is_riskier=higher_is_riskier,
    )
