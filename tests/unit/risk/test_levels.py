"""The level rules: the card's worked examples and the properties that keep a gate honest."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.contracts.policy import RiskLevel, Thresholds
from auditor.risk.levels import LevelInput, LevelReading, may_reach_critical, read_level

LEAKY = LevelInput(lo=0.31, hi=0.46, w95_hi=0.6, n_classes=60, adaptive=True)
QUIET = LevelInput(lo=-0.02, hi=0.03, w95_hi=0.10, n_classes=60, adaptive=True)

# Badness for the joint monotonicity in (lo, hi): an open reading lies between what passes and what fails.
RANK = {RiskLevel.LOW: 0, RiskLevel.MEDIUM: 1, None: 2, RiskLevel.HIGH: 3, RiskLevel.CRITICAL: 4}


def badness(reading: LevelReading) -> int:
    return RANK[reading.level]


def cleared_rank(reading: LevelReading) -> int:
    """0 low, 1 medium, 2 anything that does not clear."""
    return min(badness(reading), 2)


class TestWorkedExamples:
    """Card E.8."""

    def test_published_weights_make_it_critical(self):
        reading = read_level(replace(LEAKY, public_whitebox=True))
        assert (reading.level, reading.rule) == (RiskLevel.CRITICAL, "E3.2")

    def test_unpublished_is_high(self):
        reading = read_level(LEAKY)
        assert (reading.level, reading.rule) == (RiskLevel.HIGH, "E3.3")

    def test_extrapolated_to_label_only_is_medium(self):
        given = replace(LEAKY, access_weight=0.5, extrapolated=True)
        assert (given.low, given.high) == pytest.approx((0.155, 0.23))
        reading = read_level(given)
        assert (reading.level, reading.rule) == (RiskLevel.MEDIUM, "E3.5")

    def test_no_lift_and_adaptive_is_low(self):
        reading = read_level(QUIET)
        assert (reading.level, reading.rule) == (RiskLevel.LOW, "E3.4")

    def test_no_lift_without_adaptive_attacks_is_open(self):
        reading = read_level(replace(QUIET, adaptive=False))
        assert (reading.level, reading.rule) == (None, "E3.5")

    def test_wide_interval_is_open(self):
        reading = read_level(LevelInput(lo=0.0, hi=0.40, w95_hi=0.2, n_classes=60, adaptive=True))
        assert (reading.level, reading.rule) == (None, "E3.7")


class TestRules:
    @pytest.mark.parametrize(
        ("change", "rule"),
        [
            ({"evaluator_valid": False}, "E3.1"),
            ({"n_classes": 19}, "E3.1"),
        ],
    )
    @pytest.mark.parametrize("base", [LEAKY, QUIET])
    def test_undecidable(self, base, change, rule):
        reading = read_level(replace(base, **change))
        assert (reading.level, reading.rule, reading.proven) == (None, rule, None)

    def test_twenty_classes_decide(self):
        assert read_level(replace(LEAKY, n_classes=20)).level is RiskLevel.HIGH

    def test_lower_bound_of_a_half_is_critical(self):
        assert read_level(replace(LEAKY, lo=0.5, hi=0.6)).level is RiskLevel.CRITICAL

    def test_many_named_classes_are_critical_few_are_high(self):
        assert read_level(replace(QUIET, any_named=True, f_named=0.05)).level is RiskLevel.CRITICAL
        assert read_level(replace(QUIET, any_named=True, f_named=0.049)).level is RiskLevel.HIGH

    def test_a_memorisation_gap_raises_only_with_some_lift(self):
        gap = replace(QUIET, delta_lo=0.01)
        assert read_level(replace(gap, lo=0.10, hi=0.2)).rule == "E3.3"
        assert read_level(gap).level is RiskLevel.MEDIUM  # a proven gap is never `low`

    def test_low_wants_sixty_classes_and_a_quiet_worst_class(self):
        assert read_level(replace(QUIET, n_classes=59)).level is RiskLevel.MEDIUM
        assert read_level(replace(QUIET, w95_hi=0.25)).level is RiskLevel.MEDIUM
        assert read_level(replace(QUIET, w95_hi=None)).level is RiskLevel.MEDIUM

    def test_extrapolated_is_never_low(self):
        assert read_level(replace(QUIET, access_weight=0.5, extrapolated=True)).level is RiskLevel.MEDIUM

    def test_rule_six(self):
        reading = read_level(LevelInput(lo=0.12, hi=0.35, n_classes=60, adaptive=True))
        assert (reading.level, reading.rule) == (RiskLevel.HIGH, "E3.6")

    def test_medium_by_a_lower_bound_is_proven(self):
        assert read_level(replace(LEAKY, lo=0.12, hi=0.29)).proven is RiskLevel.MEDIUM
        assert read_level(replace(LEAKY, lo=0.02, hi=0.29)).proven is None

    @pytest.mark.parametrize("bounds", [(0.4, 0.3), (float("nan"), 0.3), (0.0, float("inf"))])
    def test_what_is_no_interval_is_refused(self, bounds):
        with pytest.raises(ValueError, match="interval"):
            LevelInput(lo=bounds[0], hi=bounds[1], n_classes=60, adaptive=True)

    @pytest.mark.parametrize("weight", [0.0, -0.5, 1.5, float("nan")])
    def test_weights_out_of_range_are_refused(self, weight):
        with pytest.raises(ValueError, match="weight"):
            replace(LEAKY, access_weight=weight)

    def test_excluding_critical(self):
        t = Thresholds()
        assert may_reach_critical(replace(LEAKY, hi=0.5), t)
        assert may_reach_critical(replace(LEAKY, w95_hi=None), t)
        assert may_reach_critical(replace(LEAKY, w95_hi=0.5), t)
        assert may_reach_critical(replace(LEAKY, w95_hi=0.4, public_whitebox=True), t)
        assert not may_reach_critical(replace(LEAKY, w95_hi=0.4), t)


bound = st.floats(-0.5, 1.5)
flags = st.fixed_dictionaries(
    {
        "extrapolated": st.booleans(),
        "any_named": st.booleans(),
        "f_named": st.sampled_from([0.0, 0.02, 0.2]),
        "w95_hi": st.one_of(st.none(), st.floats(0, 1)),
        "delta_lo": st.one_of(st.none(), st.floats(-1, 1)),
        "n_classes": st.integers(0, 100),
        "adaptive": st.booleans(),
        "evaluator_valid": st.booleans(),
        "public_whitebox": st.booleans(),
    }
)
weight = st.one_of(st.just(1.0), st.floats(0.01, 1))


class TestProperties:
    @given(st.tuples(bound, bound).map(sorted), bound, bound, weight, flags)
    def test_monotone_in_both_bounds(self, interval, up_lo, up_hi, a, rest):
        lo, hi = interval
        lo2 = lo + abs(up_lo)
        hi2 = max(hi + abs(up_hi), lo2)
        better = LevelInput(lo=lo, hi=hi, access_weight=a, **rest)
        worse = LevelInput(lo=lo2, hi=hi2, access_weight=a, **rest)
        assert badness(read_level(worse)) >= badness(read_level(better))

    @given(st.tuples(bound, bound).map(sorted), weight, weight, flags)
    def test_monotone_in_the_access_weight(self, interval, a, b, rest):
        low, high = sorted((a, b))
        weak = LevelInput(lo=interval[0], hi=interval[1], access_weight=low, **rest)
        assert badness(read_level(replace(weak, access_weight=high))) >= badness(read_level(weak))

    @given(st.tuples(bound, bound).map(sorted), st.floats(0, 1), st.floats(0, 1), weight, flags)
    def test_a_wider_interval_never_clears_more(self, interval, down, up, a, rest):
        narrow = LevelInput(lo=interval[0], hi=interval[1], access_weight=a, **rest)
        wide = replace(narrow, lo=interval[0] - down, hi=interval[1] + up)
        assert cleared_rank(read_level(wide)) >= cleared_rank(read_level(narrow))

    @given(st.tuples(bound, bound).map(sorted), weight, flags)
    def test_fewer_classes_or_less_evidence_never_clears_more(self, interval, a, rest):
        given_ = LevelInput(lo=interval[0], hi=interval[1], access_weight=a, **rest)
        reading = cleared_rank(read_level(given_))
        for change in ({"n_classes": 19}, {"evaluator_valid": False}):
            assert read_level(replace(given_, **change)).level is None
        for change in ({"adaptive": False}, {"w95_hi": None}, {"any_named": True, "f_named": 1.0}):
            assert cleared_rank(read_level(replace(given_, **change))) >= reading

    @given(st.tuples(bound, bound).map(sorted), weight, flags)
    def test_published_weights_never_look_better(self, interval, a, rest):
        given_ = LevelInput(lo=interval[0], hi=interval[1], access_weight=a, **{**rest, "public_whitebox": False})
        assert badness(read_level(replace(given_, public_whitebox=True))) >= badness(read_level(given_))
