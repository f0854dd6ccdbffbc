"""Intervals: known values, coverage by simulation, and never a false certainty."""

from __future__ import annotations

import numpy as np
import pytest

from auditor.evaluation.intervals import (
    LIFT_LIMIT,
    Bootstrap,
    benjamini_hochberg,
    effective_size,
    interval_rng,
    lift_interval,
    mean_interval,
    rate_interval,
    ratio_interval,
    resampled_classes,
    rogan_gladen,
    wilson_interval,
)
from auditor.proportions import wilson


def rng(*key: str | int) -> np.random.Generator:
    return interval_rng(0, *key)


def clustered_rates(generator: np.random.Generator, p: float, icc: float, n_classes: int, n_images: int) -> np.ndarray:
    """Beta-binomial class rates with mean `p` and intra-class correlation `icc`."""
    total = (1 - icc) / icc
    return generator.binomial(n_images, generator.beta(p * total, (1 - p) * total, n_classes)) / n_images


class TestKnownValues:
    def test_rogan_gladen_of_the_card_example(self):
        corrected = rogan_gladen(0.80, false_positive_rate=0.30, true_positive_rate=0.96)
        assert corrected == pytest.approx(0.758, abs=5e-4)
        assert rogan_gladen(0.8, false_positive_rate=0.3, true_positive_rate=0.55) is None
        assert rogan_gladen(0.1, false_positive_rate=0.3, true_positive_rate=0.9) == 0.0

    def test_benjamini_hochberg_matches_the_definition(self):
        p = np.array([0.001, 0.008, 0.039, 0.041, 0.042, 0.06, 0.074, 0.205, 0.212, 0.216])
        assert benjamini_hochberg(p).tolist() == [True, True] + [False] * 8
        assert benjamini_hochberg(np.array([0.04, 0.05, 0.05])).all()
        assert not benjamini_hochberg(np.array([])).any()
        assert benjamini_hochberg(p[::-1]).tolist() == [False] * 8 + [True, True]

    def test_effective_size(self):
        assert effective_size([0.0] * 10, 500) == 10
        assert effective_size([0.0, 1.0] * 10, 1000) == pytest.approx(19.0)
        assert effective_size([0.5, 0.51, 0.49], 30) == 30


class TestBootstrap:
    def test_matches_a_slow_loop(self):
        rates = np.array([0.1, 0.5, 0.9, 0.2])
        draws = rng("slow").integers(0, 4, size=(300, 4))
        slow = np.array([rates[row].mean() for row in draws])
        assert np.allclose(resampled_classes(4, 300, rng("slow")) @ rates, slow)

    def test_coverage_of_correlated_images(self):
        """ICC .3: class bootstrap and Wilson with an effective size cover; taking images as independent does not."""
        generator = rng("coverage")
        covered, by_wilson, naive, runs, p = 0, 0, 0, 300, 0.35
        for run in range(runs):
            rates = clustered_rates(generator, p, 0.3, 60, 20)
            interval = rate_interval(rates, n_resamples=400, generator=rng("draw", run))
            closed = wilson_interval(rates, 60 * 20)
            low, high = wilson(float(rates.mean()), 60 * 20)
            covered += interval.low <= p <= interval.high
            by_wilson += closed.low <= p <= closed.high
            naive += low <= p <= high
        assert covered / runs >= 0.88
        assert by_wilson / runs >= 0.88
        assert naive / runs < 0.75

    @pytest.mark.parametrize("p", [0.004, 0.01, 0.03])
    def test_upper_bounds_of_rare_success_hold(self, p: float):
        generator, runs, held = rng("rare"), 300, 0
        for run in range(runs):
            rates = clustered_rates(generator, p, 0.3, 60, 5)
            held += rate_interval(rates, n_resamples=200, generator=rng("rare", run)).high >= p
        assert held / runs >= 0.95

    def test_zero_successes_leave_room(self):
        interval = rate_interval([0.0] * 60, n_resamples=200, generator=rng())
        assert interval.value == interval.low == 0.0
        assert interval.high == pytest.approx(wilson(0.0, 60)[1])
        everything = rate_interval([1.0] * 60, n_resamples=200, generator=rng())
        assert (everything.value, everything.high) == (1.0, 1.0)
        assert everything.low == pytest.approx(1 - interval.high)

    def test_more_success_never_lowers_a_bound(self):
        rates, previous = np.zeros(30), None
        order = rng("order").permutation(np.repeat(np.arange(30), 5))
        for label in order:
            rates[label] += 0.2
            now = rate_interval(np.minimum(rates, 1), n_resamples=200, generator=rng("same"))
            assert now.low <= now.value <= now.high
            if previous is not None:
                assert now.high >= previous.high - 1e-12
                assert now.low >= previous.low - 1e-12
            previous = now

    def test_same_seed_same_interval_and_metrics_do_not_disturb_each_other(self):
        rates = np.linspace(0, 1, 25)
        first, second = Bootstrap(200, 7), Bootstrap(200, 7)
        first.rng("other").random(100)
        intervals = [rate_interval(rates, n_resamples=200, generator=b.rng("x")) for b in (first, second)]
        assert intervals[0] == intervals[1]
        assert rate_interval(rates, n_resamples=200, generator=Bootstrap(200, 8).rng("x")) != intervals[0]

    def test_means_and_bad_input(self):
        interval = mean_interval([1.0, 2.0, 3.0, 10.0], n_resamples=500, generator=rng())
        assert interval.low < interval.value == 4.0 < interval.high
        for function in (rate_interval, mean_interval):
            with pytest.raises(ValueError, match="finite"):
                function([0.1, np.nan], n_resamples=10, generator=rng())
            with pytest.raises(ValueError, match="at least one class"):
                function([], n_resamples=10, generator=rng())

    def test_ratio_of_sums(self):
        interval = ratio_interval([1, 0, 4], [2, 0, 4], n_resamples=500, generator=rng())
        assert interval is not None
        assert interval.value == pytest.approx(5 / 6)
        assert 0 < interval.low <= 0.5 < interval.value <= interval.high <= 1
        assert ratio_interval([0, 0], [0, 0], n_resamples=10, generator=rng()) is None


class TestLift:
    def lift(self, rates, control=0.01, ceiling=0.6, n=60):
        spread = np.linspace(-0.2, 0.2, n)
        rates = np.broadcast_to(np.asarray(rates, dtype=float), (n,))
        return lift_interval(
            rates, np.full(n, control), np.clip(ceiling + spread, 0, 1), n_resamples=400, generator=rng("lift")
        )

    def test_value_and_order(self):
        interval = self.lift(0.31)
        assert interval.value == pytest.approx(0.3 / 0.59, abs=1e-6)
        assert interval.low <= interval.value <= interval.high

    def test_no_success_is_not_certain(self):
        interval = self.lift(0.0)
        assert interval.value < 0
        assert interval.high > 0.05 / 0.6

    def test_rises_with_every_class(self):
        previous, rates = self.lift(np.zeros(60)), np.zeros(60)
        for label in rng("classes").permutation(60):
            rates[label] = 1.0
            now = self.lift(rates)
            assert now.value >= previous.value
            assert now.low >= previous.low - 1e-12
            assert now.high >= previous.high - 1e-12
            previous = now

    def test_a_lower_ceiling_raises_and_widens(self):
        strong, weak = self.lift(np.tile([0.0, 0.2], 30), ceiling=0.8), self.lift(np.tile([0.0, 0.2], 30), ceiling=0.25)
        assert weak.value > strong.value
        assert weak.high - weak.low > strong.high - strong.low

    def test_resamples_without_a_ceiling_count_as_the_worst(self):
        ceiling = np.zeros(40)
        ceiling[:2] = 1.0
        interval = lift_interval(np.zeros(40), np.zeros(40), ceiling, n_resamples=400, generator=rng())
        assert (interval.value, interval.low, interval.high) == (0.0, -LIFT_LIMIT, LIFT_LIMIT)

    def test_no_ceiling_at_all(self):
        zeros = np.zeros(30)
        assert lift_interval(zeros + 0.5, zeros, zeros, n_resamples=50, generator=rng()) is None
        assert lift_interval(zeros, zeros + 0.3, zeros + 0.3, n_resamples=50, generator=rng()) is None
        assert lift_interval(zeros, zeros, zeros * np.nan, n_resamples=50, generator=rng()) is None

    def test_classes_without_a_ceiling_take_the_mean_of_the_others(self):
        ceiling = np.full(40, 0.5)
        full = lift_interval(np.full(40, 0.25), np.zeros(40), ceiling, n_resamples=100, generator=rng())
        ceiling[::4] = np.nan
        partial = lift_interval(np.full(40, 0.25), np.zeros(40), ceiling, n_resamples=100, generator=rng())
        assert full.value == partial.value == 0.5

    def test_covers_the_truth(self):
        generator, runs, covered = rng("truth"), 200, 0
        for run in range(runs):
            rates = clustered_rates(generator, 0.3, 0.3, 60, 5)
            ceiling = clustered_rates(generator, 0.5, 0.3, 60, 8)
            interval = lift_interval(rates, np.full(60, 0.01), ceiling, n_resamples=300, generator=rng("t", run))
            covered += interval.low <= 0.29 / 0.49 <= interval.high
        assert covered / runs >= 0.88

    def test_mismatched_classes(self):
        with pytest.raises(ValueError, match="same classes"):
            lift_interval([0.1, 0.2], [0.1], [0.3, 0.4], n_resamples=10, generator=rng())
