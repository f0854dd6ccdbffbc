"""CEM and SiftFunnel: what a device sends at a cut."""

import pytest
import torch

from auditor.contracts.access import Access
from auditor.fisher.units import execution_units
from auditor.tensors import RunContext
from remediation.defenses.catalog import DEFENSES
from remediation.defenses.cem import entropy_term, kmeans, spread_start
from remediation.defenses.siftfunnel import channel_correlation, distance_correlation, smoothed_divergence

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(40, 3, generator=GENERATOR)


def slow_distance_correlation(x, z):
    def centred(rows):
        n = len(rows)
        d = [[float((rows[i] - rows[j]).norm()) for j in range(n)] for i in range(n)]
        t = torch.tensor(d, dtype=torch.float64)
        return t - t.mean(0) - t.mean(1, keepdim=True) + t.mean()

    a, b = centred(x), centred(z)
    return ((a * b).mean() / (a.square().mean() * b.square().mean()).sqrt()).sqrt()


def test_distance_correlation_is_the_written_out_one():
    z = X[:, :1] ** 2 + 0.1 * torch.randn(40, 1, generator=GENERATOR)
    torch.testing.assert_close(
        distance_correlation(X, z).double(), slow_distance_correlation(X, z), atol=1e-4, rtol=1e-4
    )
    assert float(distance_correlation(X, 3 * X - 1)) == pytest.approx(1, abs=1e-4)


def test_channels_that_repeat_each_other_correlate():
    channel = torch.randn(8, 1, 4, 4, generator=GENERATOR)
    assert float(channel_correlation(torch.cat([channel, -2 * channel], dim=1))) == pytest.approx(1, abs=1e-4)
    assert float(channel_correlation(torch.randn(64, 2, 8, 8, generator=GENERATOR))) < 0.01


def test_the_divergence_is_zero_at_the_smoothed_label():
    scores = torch.tensor([[0.75, 0.125, 0.125]]).log()
    assert float(smoothed_divergence(scores, torch.tensor([0]), 0.25)) == pytest.approx(0, abs=1e-6)


def test_clusters_are_found_and_their_spread_is_pressed_down_to_the_floor_alone():
    points = torch.cat([torch.randn(30, 2, generator=GENERATOR) * 0.1 + shift for shift in (0.0, 5.0)])
    centroids, shares = kmeans(points, spread_start(points, 2, GENERATOR))
    assert sorted(round(float(c)) for c in centroids[:, 0]) == [0, 5]
    assert shares.tolist() == [0.5, 0.5]
    owners, labels = torch.zeros(2, dtype=torch.int64), torch.zeros(60, dtype=torch.int64)
    moving = points.clone().requires_grad_()
    settings = {"floor": 0.001, "gamma": 0.001}
    term = entropy_term(moving, labels, centroids, owners, shares, **settings)
    (slope,) = torch.autograd.grad(term, moving)
    nearer = points - 0.5 * slope / slope.norm()
    assert float(term.detach()) > float(entropy_term(nearer, labels, centroids, owners, shares, **settings)) > 0
    assert float(entropy_term(points, labels, centroids, owners, shares, floor=1.0, gamma=0.001)) == 0


@pytest.mark.parametrize("name", ["cem", "siftfunnel"])
def test_they_need_a_cut(name):
    assert "--split" in DEFENSES.build(name, {}).misplaced(Access.WHITE_BOX, None)
    assert DEFENSES.build(name, {}).misplaced(Access.SPLIT, "features.3") == ""


@pytest.mark.parametrize("name", ["cem", "siftfunnel"])
def test_they_train_and_leave_no_hooks(name, tiny_network, tiny_data):
    units = execution_units(tiny_network, torch.zeros(1, 1, 16, 16))
    defense = DEFENSES.build(name, {"epochs": 2, "batch_size": 16, "augment": False})
    repaired = defense.fit(
        tiny_network, units, "head", 0, tiny_data, RunContext(), prepare=lambda images: images, cut="features.3"
    )
    assert all(torch.isfinite(value).all() for value in repaired.module.state_dict().values())
    assert all(not module._forward_hooks for module in repaired.module.modules())
    assert repaired.history.best_epoch == 1
