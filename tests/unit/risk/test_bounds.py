"""What a number of classes can resolve: the card's numbers, and agreement with the plain formulas."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.contracts.policy import Thresholds
from auditor.contracts.scores import Measured
from auditor.proportions import wilson
from auditor.risk.bounds import (
    classes_for_half_width,
    classes_for_zero_upper,
    design_effect,
    zero_success_upper,
)
from auditor.risk.evidence import LiftEvidence
from auditor.risk.sample_size import class_advice, classes_needed, few_classes_advice
from auditor.testing.reports import sample_target


@pytest.mark.parametrize(("n", "upper"), [(10, 0.278), (35, 0.099), (60, 0.060)])
def test_zero_successes_as_in_the_card(n, upper):
    assert zero_success_upper(n) == pytest.approx(upper, abs=6e-4)
    assert zero_success_upper(n) == pytest.approx(wilson(0.0, n)[1])


def test_no_class_resolves_nothing():
    assert zero_success_upper(0) == 1.0


@given(st.floats(0.01, 0.9))
def test_the_zero_limit_is_the_smallest_number(upper):
    n = classes_for_zero_upper(upper)
    assert zero_success_upper(n) < upper
    assert n == 1 or zero_success_upper(n - 1) >= upper - 1e-12


def test_design_effect_inverts_the_interval():
    # n_eff = 171 of 3000 images: the card's example.
    low, high = 0.3737 - 1.96 * (0.3737 * 0.6263 / 171) ** 0.5, 0.3737 + 1.96 * (0.3737 * 0.6263 / 171) ** 0.5
    assert design_effect(0.3737, low, high, 3000) == pytest.approx(3000 / 171, rel=1e-3)
    assert design_effect(0.0, 0.0, 0.0, 3000) == 1.0
    assert design_effect(0.4, 0.39999, 0.40001, 3000) == 1.0  # never more independent than the images are


def test_half_width_formula():
    # 60 classes of 50 images with n_eff = 171 give ± 0.0725: asking for just that gives 60 classes back.
    half = 1.96 * (0.3737 * 0.6263 / 171) ** 0.5
    assert classes_for_half_width(0.3737, half, 3000 / 171, 50) in (60, 61)
    with pytest.raises(ValueError, match="positive"):
        classes_for_half_width(0.3, 0.0, 1.0, 5)
    with pytest.raises(ValueError, match="bound"):
        classes_for_zero_upper(1.0)


def lift(value, low, high, n_classes=60, ceiling=0.7):
    def rate(metric, middle, down, up):
        return Measured(metric=metric, value=middle, low=down, high=up, n=n_classes * 5)

    both = rate("both_agree", value * ceiling, max(low, 0) * ceiling, high * ceiling)
    zero, top = rate("control_both", 0.0, 0.0, 0.01), rate("ceiling_both", ceiling, ceiling, ceiling)
    return LiftEvidence(value, low, high, high, n_classes, both, zero, top)


def test_a_wider_interval_needs_more_classes():
    narrow, wide = classes_needed(lift(0.15, 0.0, 0.35), 0.3), classes_needed(lift(0.15, 0.0, 0.5), 0.3)
    assert 60 < narrow < wide


def test_an_estimate_over_the_threshold_cannot_be_cleared_by_more_classes():
    assert classes_needed(lift(0.35, 0.05, 0.6), 0.3) is None
    assert "repair" in class_advice([lift(0.15, 0.0, 0.4), lift(0.35, 0.05, 0.6)], Thresholds(), sample_target())


def test_advice_in_plain_words():
    text = class_advice([lift(0.15, 0.0, 0.35)], Thresholds(), sample_target())
    assert "more classes" in text
    few = class_advice([lift(0.15, 0.0, 0.9)], Thresholds(), sample_target())
    assert "the model has 158" in few
    assert "nothing a longer audit could add" in few_classes_advice(10, Thresholds(), sample_target(n_classes=10))
    assert "at least 5 more classes" in few_classes_advice(15, Thresholds(), sample_target())
