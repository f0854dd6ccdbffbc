import numpy as np
import pytest
import torch

from auditor.fisher.contrast import candidate_boundaries, contrast, depth_gap, depth_quantiles, profile, resamples
from auditor.fisher.per_sample import UnitSquares
from auditor.fisher.shares import cluster_sums, masses, normalise, trimmed


def make_profile(shares, *, noise=0.0, n_classes=30, seed=0, n_bootstrap=400):
    generator = np.random.default_rng(seed)
    step = np.asarray(shares) * np.exp(noise * generator.normal(size=(n_classes, len(shares))))
    counts = resamples(n_classes, n_bootstrap, torch.Generator().manual_seed(seed))
    return profile([step], counts)


def test_aggregators_give_different_rankings():
    squares = UnitSquares(torch.tensor([[4.0, 3.0, 6.0]]).double(), torch.tensor([[1.0, 5.0, 2.0]]).double())
    sizes = [2, 10, 100]
    ranking = {a: int(np.argmax(masses(squares, sizes, a)[0])) for a in ("sum", "density", "relative")}
    assert ranking == {"sum": 2, "density": 0, "relative": 1}


def test_shares_sum_to_one_and_have_a_floor():
    shares = normalise(np.array([[0.0, 3.0, 1.0], [0.0, 0.0, 0.0]]))
    assert shares.sum(axis=1) == pytest.approx([1, 1])
    assert shares[0, 0] > 0
    assert shares[1] == pytest.approx([1 / 3] * 3)


def test_trimming_ignores_an_outlier():
    mass = np.ones((20, 2))
    mass[3] = [1e9, 1.0]
    assert trimmed(mass) == pytest.approx([0.5, 0.5])


def test_cluster_sums_add_up_within_classes():
    sums = cluster_sums(np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), np.array([7, 2, 7]), np.array([2, 7]))
    assert sums.tolist() == [[3.0, 4.0], [6.0, 8.0]]


def test_each_step_is_normalised_before_the_average():
    early, late = np.array([[1e6, 3e6]]), np.array([[3e-6, 1e-6]])
    assert profile([early, late], np.ones((1, 1))).shares == pytest.approx([0.5, 0.5])


def test_resamples_count_every_class_once_on_average():
    counts = resamples(12, 500, torch.Generator().manual_seed(0))
    assert (counts.sum(axis=1) == 12).all()
    assert counts.mean(axis=0) == pytest.approx([1] * 12, abs=0.2)


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_equal_profiles_are_uninformative(noise):
    shares = [0.2, 0.3, 0.3, 0.2]
    gap = depth_gap(make_profile(shares, noise=noise, seed=1), make_profile(shares, noise=noise, seed=2))
    assert not gap.informative
    assert candidate_boundaries(gap, np.array(shares)) == (1, 2, 3)


def test_an_early_inversion_profile_is_informative_with_interval_and_contrast():
    inversion = make_profile([0.5, 0.3, 0.1, 0.1], noise=0.3, seed=1)
    classification = make_profile([0.1, 0.1, 0.3, 0.5], noise=0.3, seed=2)
    gap = depth_gap(inversion, classification)
    assert gap.informative
    assert gap.boundary == 2
    assert gap.low <= gap.value <= gap.high
    assert gap.value == pytest.approx(0.6, abs=0.1)
    value, low, high = contrast(inversion, classification)
    assert value[0] > 0 > value[3]
    assert (low <= value).all()
    assert (value <= high).all()
    assert low[0] > 0


def test_candidates_of_an_informative_profile():
    inversion = make_profile([0.3, 0.3, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05])
    shares = np.array([0.05, 0.05, 0.1, 0.1, 0.2, 0.2, 0.2, 0.1])
    gap = depth_gap(inversion, make_profile(shares))
    assert gap.boundary == 2
    assert candidate_boundaries(gap, shares) == (1, 2, 3, 5, 6)  # 5: 0.5 of the mass is left; quantiles 2 and 6


@pytest.mark.parametrize("n_units", range(1, 12))
def test_candidates_never_freeze_the_head(n_units):
    gap = depth_gap(make_profile(np.ones(n_units)), make_profile(np.ones(n_units)))
    found = candidate_boundaries(gap, np.ones(n_units) / n_units)
    assert all(1 <= k <= n_units - 1 for k in found)
    assert (not found) == (n_units == 1)
    assert all(1 <= k < n_units for k in depth_quantiles(n_units, (0.0, 0.5, 1.0)))
