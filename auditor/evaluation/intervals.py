"""Intervals over classes: bootstrap, Wilson with an effective sample size, Rogan-Gladen, Benjamini-Hochberg.

Images of one class are not independent, so every interval resamples *classes* (Field & Welsh, J. R. Stat. Soc. B 2007:
the cluster bootstrap). A percentile bootstrap says [0, 0] when nothing succeeded at all, which is a false "safe": every
bound is therefore floored by the Wilson bound (Wilson, JASA 1927) that G classes can support. numpy only.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from auditor.proportions import wilson

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A point estimate and its 95 % bounds."""

    value: float
    low: float
    high: float


def interval_rng(seed: int, *key: str | int) -> np.random.Generator:
    """A generator seeded by a hash of `seed` and `key`, as `RunContext.rng` is, for code that must not reach torch."""
    text = "\0".join([str(seed), *map(str, key)])
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))


def resampled_classes(n_classes: int, n_resamples: int, generator: np.random.Generator) -> Floats:
    """(B, G) how often each class is drawn in each of B resamples of G classes, divided by G: rows sum to 1.

    A resample's mean is then `weights @ per_class`; two arrays under the same weights are resampled jointly.
    """
    draws = generator.integers(0, n_classes, size=(n_resamples, n_classes))
    weights = np.zeros((n_resamples, n_classes))
    np.add.at(weights, (np.arange(n_resamples)[:, None], draws), 1.0)
    return weights / n_classes


def effective_size(rates: ArrayLike, n_images: int) -> float:
    """Independent images that `n_images` correlated ones are worth: p(1-p) / (Var(rates)/G), at most `n_images`.

    With no variance between classes (all at 0 or all at 1) only the number of classes G is supported.
    """
    a = np.asarray(rates, dtype=np.float64)
    p, variance = float(a.mean()), float(a.var(ddof=1)) if a.size > 1 else 0.0
    if variance == 0.0:
        return float(a.size)
    return float(min(p * (1 - p) / (variance / a.size), n_images))


def wilson_interval(rates: ArrayLike, n_images: int) -> Interval:
    """Wilson with the effective size of correlated images: the closed-form companion of `rate_interval`."""
    a = np.asarray(rates, dtype=np.float64)
    low, high = wilson(float(a.mean()), effective_size(a, n_images))
    return Interval(float(a.mean()), low, high)


def rare_event_bounds(p: float, n_classes: int) -> tuple[float, float]:
    """(ceiling for the lower bound, floor for the upper bound) near 0 and 1, where a bootstrap is too sure of itself.

    The Wilson bound at n = G, held constant once more than one whole class has succeeded (or failed), so that away
    from the ends the bootstrap alone decides and more successes never give a lower upper bound.
    """
    lower, upper = wilson(p, n_classes)
    flat_low, _ = wilson(1 - 1 / n_classes, n_classes)
    _, flat_high = wilson(1 / n_classes, n_classes)
    return max(lower, flat_low), min(upper, flat_high)


def rate_interval(rates: ArrayLike, *, n_resamples: int, generator: np.random.Generator) -> Interval:
    """Mean over classes of per-class shares in [0, 1], percentile bootstrap over classes, widened near 0 and 1.

    Args:
        rates: (G,) share of each class's images.
        n_resamples: bootstrap resamples of the classes.
        generator: numpy generator.
    """
    a = np.asarray(rates, dtype=np.float64)
    if a.size == 0 or not bool(np.isfinite(a).all()):
        raise ValueError("a rate interval needs at least one class, and finite rates")
    means = resampled_classes(a.size, n_resamples, generator) @ a
    low, high = np.quantile(means, [0.025, 0.975])
    low_cap, high_floor = rare_event_bounds(float(a.mean()), a.size)
    value = float(a.mean())
    return Interval(value, min(float(low), low_cap, value), max(float(high), high_floor, value))


def mean_interval(values: ArrayLike, *, n_resamples: int, generator: np.random.Generator) -> Interval:
    """Mean over classes of any per-class quantity, percentile bootstrap over classes."""
    a = np.asarray(values, dtype=np.float64)
    if a.size == 0 or not bool(np.isfinite(a).all()):
        raise ValueError("a mean interval needs at least one class, and finite values")
    low, high = np.quantile(resampled_classes(a.size, n_resamples, generator) @ a, [0.025, 0.975])
    return Interval(float(a.mean()), float(low), float(high))


def ratio_interval(
    numerators: ArrayLike, denominators: ArrayLike, *, n_resamples: int, generator: np.random.Generator
) -> Interval | None:
    """Sum over sum, both resampled by class together, for shares of a subset whose size varies by class.

    Near 0 and 1 it is widened as a rate over the classes that have a denominator at all. None: the denominators are 0.
    """
    top, bottom = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    used = bottom > 0
    if not bool(used.any()):
        return None
    top, bottom = top[used], bottom[used]
    weights = resampled_classes(top.size, n_resamples, generator)
    low, high = np.quantile((weights @ top) / (weights @ bottom), [0.025, 0.975])
    value = float(top.sum() / bottom.sum())
    low_cap, high_floor = rare_event_bounds(value, top.size)
    return Interval(value, min(float(low), low_cap, value), max(float(high), high_floor, value))


LIFT_LIMIT = 10.0
"""Bounds of a lift are clipped to this size."""


def lift_interval(
    rates: ArrayLike,
    control: ArrayLike,
    ceiling: ArrayLike,
    *,
    n_resamples: int,
    generator: np.random.Generator,
    is_rate: bool = True,
) -> Interval | None:
    """Normalised lift R = (rate - control) / (ceiling - control), all three bootstrapped together over classes.

    A resample whose ceiling does not exceed its control says nothing about R: it enters as +infinity for the upper
    bound and as -infinity for the lower one, so a weak ceiling widens the interval and never narrows it. The rate's
    `rare_event_bounds` are carried through, so zero successes do not give an interval of width zero.

    Args:
        rates: (G,) both-agree share of each attacked class.
        control: (G,) the same share for unguided prior samples.
        ceiling: (G,) the same share for projected real images; NaN for a class without any, which then
            counts with the mean of the others.
        n_resamples: bootstrap resamples of the classes.
        generator: numpy generator.
        is_rate: False when `rates` is not a share in [0, 1] (a difference of shares), which has no rare-event bounds.

    Returns:
        The interval, or None when the ceiling does not exceed the control at all.
    """
    a, c, top = (np.asarray(x, dtype=np.float64) for x in (rates, control, ceiling))
    if not a.shape == c.shape == top.shape or a.size == 0:
        raise ValueError("a lift needs the rate, control and ceiling of the same classes")
    known = np.isfinite(top)
    gap = float(top[known].mean() - c.mean()) if bool(known.any()) else 0.0
    if not gap > 0:
        return None
    weights = resampled_classes(a.size, n_resamples, generator)
    a_b, c_b, share = weights @ a, weights @ c, weights @ known.astype(np.float64)
    gap_b = np.divide(weights @ np.where(known, top, 0.0), share, out=np.zeros_like(share), where=share > 0) - c_b
    usable = gap_b > 1e-12
    safe_gap = np.where(usable, gap_b, 1.0)
    low_cap, high_floor = rare_event_bounds(float(a.mean()), a.size) if is_rate else (np.inf, -np.inf)

    def bound(draws: Floats, quantile: float) -> float:
        worst = np.inf if quantile > 0.5 else -np.inf
        ratios = np.where(usable, (draws - c_b) / safe_gap, worst)
        method = "higher" if quantile > 0.5 else "lower"
        return float(np.clip(np.quantile(ratios, quantile, method=method), -LIFT_LIMIT, LIFT_LIMIT))  # type: ignore[call-overload]

    value = float(np.clip((a.mean() - c.mean()) / gap, -LIFT_LIMIT, LIFT_LIMIT))
    low = min(bound(a_b, 0.025), bound(np.full_like(a_b, low_cap), 0.025), value)
    high = max(bound(a_b, 0.975), bound(np.full_like(a_b, high_floor), 0.975), value)
    return Interval(value, low, high)


def rogan_gladen(observed: float, *, false_positive_rate: float, true_positive_rate: float) -> float | None:
    """Share corrected for an imperfect test: (p - FPR) / (TPR - FPR), clipped to [0, 1].

    Rogan & Gladen, American Journal of Epidemiology 1978. None when TPR - FPR < 0.3: such a test cannot be corrected.
    """
    power = true_positive_rate - false_positive_rate
    if power < 0.3:
        return None
    return min(1.0, max(0.0, (observed - false_positive_rate) / power))


def benjamini_hochberg(p_values: ArrayLike, *, level: float = 0.05) -> NDArray[np.bool_]:
    """Which hypotheses are rejected at false discovery rate `level` (Benjamini & Hochberg, J. R. Stat. Soc. B 1995)."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    under = np.flatnonzero(p[order] <= level * np.arange(1, p.size + 1) / max(p.size, 1))
    rejected = np.zeros(p.size, dtype=np.bool_)
    if under.size:
        rejected[order[: int(under[-1]) + 1]] = True
    return rejected


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are drawn: resamples per interval, and the seed their generators derive from.

    Each metric has a generator of its own, so adding a metric never changes another's interval.
    """

    n_resamples: int = 2000
    seed: int = 0

    def rng(self, *key: str | int) -> np.random.Generator:
        """The generator of one named interval."""
        return interval_rng(self.seed, "bootstrap", *key)
