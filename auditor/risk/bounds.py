"""Arithmetic of what a number of classes can resolve (method cards D.8 and E.3)."""

from __future__ import annotations

import math

from auditor.proportions import Z95


def zero_success_upper(n_classes: int) -> float:
    """Wilson's upper bound of a rate after no success in `n_classes` independent classes.

    Samples of one class are not independent, so classes are what counts: 0.278 at 10 classes, 0.099 at 35, 0.060 at 60.
    No interval on fewer than this can be believed, whatever a bootstrap of all-zero classes says.
    """
    return Z95**2 / (n_classes + Z95**2) if n_classes > 0 else 1.0


def samples_to_name(n_classes: int, rate: float) -> int:
    """Samples per class after which one class that always succeeds, among `n_classes`, is proven to exceed `rate`.

    The first step of Benjamini-Hochberg at 5 %: rate^n <= 0.05 / n_classes.
    """
    return math.ceil(math.log(0.05 / max(n_classes, 1)) / math.log(min(max(rate, 0.01), 0.99)))


def design_effect(rate: float, low: float, high: float, n_images: int) -> float:
    """How many correlated images are worth one independent one: n_images / n_eff, from a measured interval.

    At a rate of 0 or 1, or with an interval of no width, nothing is known about the spread between classes: 1 is
    returned and the caller relies on `zero_success_upper`.
    """
    half_width = (high - low) / 2
    variance = rate * (1 - rate)
    if half_width <= 0 or variance <= 0 or n_images <= 0:
        return 1.0
    n_effective = min(Z95**2 * variance / half_width**2, float(n_images))
    return n_images / n_effective


def classes_for_half_width(rate: float, half_width: float, deff: float, images_per_class: float) -> int:
    """Classes needed for a 95 % interval of `rate` ± `half_width`: 1.96² p(1-p)/h² · deff / (images per class)."""
    if half_width <= 0:
        raise ValueError("a half-width must be positive")
    return math.ceil(Z95**2 * rate * (1 - rate) / half_width**2 * deff / images_per_class)


def classes_for_zero_upper(upper: float) -> int:
    """Classes needed before no success at all puts the rate under `upper` (in (0, 1))."""
    if not 0 < upper < 1:
        raise ValueError("the bound must lie in (0, 1)")
    return math.floor(Z95**2 * (1 - upper) / upper) + 1
