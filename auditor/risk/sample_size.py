"""How many more classes an open verdict asks for, in plain words (the formula of method card E.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from auditor.contracts.policy import Thresholds
from auditor.contracts.submission import TargetCard
from auditor.risk.bounds import classes_for_half_width, classes_for_zero_upper, design_effect
from auditor.risk.evidence import LiftEvidence


def classes_needed(lift: LiftEvidence, threshold: float) -> int | None:
    """Classes with which a lift like this one would have its upper bound under `threshold`.

    The both-agree rate p must get a half-width of (threshold - R) · headroom, with the design effect taken from its
    own interval; and no number of classes under the zero-success limit resolves the threshold at all.

    Returns:
        None when the point estimate is at or over the threshold: more classes would sooner prove the leak.
    """
    headroom = lift.ceiling.value - lift.control.value
    margin = threshold - max(lift.value, 0.0)
    if margin <= 0 or headroom <= 0:
        return None
    resolvable = min(threshold * headroom + lift.control.value, 0.999)
    needed = classes_for_zero_upper(resolvable)
    rate = lift.both
    per_class = rate.n / lift.n_classes if lift.n_classes else 1.0
    deff = design_effect(rate.value, rate.low, rate.high, rate.n)
    needed = max(needed, classes_for_half_width(rate.value, margin * headroom, deff, max(per_class, 1.0)))
    by_width = (lift.measured_high - lift.value) / margin
    return max(needed, math.ceil(lift.n_classes * by_width**2))


def class_advice(lifts: Sequence[LiftEvidence], thresholds: Thresholds, target: TargetCard) -> str:
    """What to do about intervals that span `high_lift`: the advice that settles the widest of them."""
    counts = [(classes_needed(lift, thresholds.high_lift), lift) for lift in lifts]
    needed, lift = max(counts, key=lambda pair: math.inf if pair[0] is None else pair[0])
    if needed is None:
        return (
            f"nothing but a repair is likely to clear this: the estimate itself ({lift.value:.2f}) is over "
            f"{thresholds.high_lift:.2f}; more classes would narrow the interval and sooner prove the leak"
        )
    more = needed - lift.n_classes
    if more <= 0:
        return "better public data or a bigger generator: a higher ceiling narrows the interval"
    if needed > target.n_classes:
        return (
            f"about {needed} classes for an interval that narrow, but the model has {target.n_classes}: use better "
            "public data or a bigger generator (a higher ceiling narrows the interval), and more private images"
        )
    return f"about {more} more classes ({needed} in all; {lift.n_classes} were attacked)"


def few_classes_advice(n_classes: int, thresholds: Thresholds, target: TargetCard) -> str:
    """What to do when too few classes were attacked for any decision."""
    needed = thresholds.min_classes
    if target.n_classes < needed:
        return (
            f"nothing a longer audit could add: the model has {target.n_classes} classes and this policy decides from "
            f"{needed} on; a reviewer has to judge the pictures"
        )
    return (
        f"at least {needed - n_classes} more classes (`n_classes: {needed}` or more in the plan; 60 for the level low)"
    )
