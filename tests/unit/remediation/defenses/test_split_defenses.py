"""CEM and SiftFunnel: what a device sends at a cut."""

import copy

import pytest
import torch
from torch import nn

from auditor.contracts.access import Access
from auditor.contracts.jobs import UnitSpec
from auditor.contracts.manifest import RepairBudget
from auditor.contracts.repair import TrainedCandidate
from auditor.contracts.submission import TargetCard
from auditor.errors import InvalidInput
from auditor.fisher.units import execution_units
from auditor.loading.target_loading import load_target
from auditor.targets.split import cut_points, split_at, with_split
from auditor.tensors import RunContext
from remediation.cut_features import CutPass
from remediation.defenses.catalog import DEFENSES
from remediation.defenses.cem import entropy_term, kmeans, spread_start
from remediation.defenses.siftfunnel import channel_correlation, distance_correlation, smoothed_divergence
from remediation.stages import repair_pretrain, repair_train

CTX = RunContext(batch_size=64)
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


def test_what_has_nothing_to_do_with_the_image_hardly_correlates():
    far = torch.randn(400, 2, generator=GENERATOR)
    assert float(distance_correlation(far[:, :1], far[:, 1:])) < 0.15
    still = torch.ones(40, 3, requires_grad=True)
    value = distance_correlation(X, still)
    value.backward()
    assert float(value.detach()) < 1e-3  # a constant tells nothing
    assert torch.isfinite(still.grad).all()


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


def submission_cut_at(make_submission, kind, layer, name, params):
    """A submission that was audited with `--split`, and is to be repaired by `name`."""
    submission = make_submission(kind)
    target = load_target(submission.root / "inputs/model", submission.card, CTX.device)
    points = cut_points(target)
    point = next(p for p in points if layer in (p.name, *p.aliases)) if layer else points[len(points) // 2]
    card = with_split(submission.card, split_at(target, point.name))
    (submission.root / "inputs/target.json").write_text(card.model_dump_json())
    manifest = submission.manifest.model_copy(update={"repair": RepairBudget(defense=name, params=params)})
    (submission.root / "inputs/manifest.json").write_text(manifest.model_dump_json())
    return submission, card


@pytest.mark.parametrize("name", ["cem", "siftfunnel"])
@pytest.mark.parametrize(("kind", "layer"), [("safetensors", "features.3"), ("onnx", None)])
def test_a_cut_submission_is_repaired_and_still_cut_at_the_same_layer(make_submission, name, kind, layer):
    params = {"epochs": 2, "lr": 1e-3, "batch_size": 16, "augment": False}
    submission, card = submission_cut_at(make_submission, kind, layer, name, params)
    started = submission.workspace()
    repair_pretrain(UnitSpec(kind="repair-pretrain", key="pretrain"), started, CTX)
    workspace = submission.workspace("k0", take=started)
    value = repair_train(UnitSpec(kind="repair-train", key="k0/train", params={"boundary": 0}), workspace, CTX)
    assert TrainedCandidate.model_validate(value).heldout_accuracy.value > 0.6
    repaired = TargetCard.model_validate_json((workspace.root / "outputs/target.json").read_text())
    assert repaired.split == card.split
    assert repaired.format == card.format
    assert Access.SPLIT in repaired.access
    images = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    before, after = (
        split_at(load_target(path, c, CTX.device), card.split.layer).encode(images)
        for path, c in ((workspace.input("model"), card), (workspace.root / "outputs/model", repaired))
    )
    assert before.shape == after.shape
    assert not torch.allclose(before, after)  # it was the device's part that was trained


@pytest.mark.parametrize("name", ["cem", "siftfunnel"])
def test_a_submission_that_is_not_cut_is_told_to_name_the_layer(make_submission, name):
    submission = make_submission()
    manifest = submission.manifest.model_copy(update={"repair": RepairBudget(defense=name)})
    (submission.root / "inputs/manifest.json").write_text(manifest.model_dump_json())
    with pytest.raises(InvalidInput, match="--split LAYER"):
        repair_pretrain(UnitSpec(kind="repair-pretrain", key="pretrain"), submission.workspace(), CTX)


class InPlace(nn.Module):
    """A layer behind the cut writes over what passes there."""

    def __init__(self):
        super().__init__()
        self.first, self.act, self.head = nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.act(self.first(x)))


def test_features_are_those_of_the_cut_and_only_the_server_sees_the_noise():
    torch.manual_seed(0)
    module = InPlace()
    run = CutPass(module, "first")
    features, scores = run(X)
    torch.testing.assert_close(features, module.first(X))
    torch.testing.assert_close(scores, module(X))
    features, scores = run(X, lambda z: z + 1)
    torch.testing.assert_close(features, module.first(X))
    torch.testing.assert_close(scores, module.head((module.first(X) + 1).relu()))
    features.sum().backward()
    assert module.first.weight.grad is not None
    with pytest.raises(RuntimeError):
        run(torch.zeros(1, 5))
    assert not module.first._forward_hooks


def test_cem_draws_the_features_of_a_class_together(tiny_network, tiny_data):
    """Beside the spread of all features: shrinking them as a whole hides nothing from a decoder."""

    def spread(module):
        with torch.no_grad():
            z = CutPass(module.eval(), "features.3")(tiny_data.fit.images)[0].flatten(1)
        within = sum(z[tiny_data.fit.labels == label].var(dim=0).mean() for label in range(3)) / 3
        return float(within / z.var(dim=0).mean())

    found = {}
    for weight in (0.0, 16.0):
        module = copy.deepcopy(tiny_network)
        params = {"epochs": 6, "lr": 2e-3, "batch_size": 16, "augment": False, "weight": weight}
        units = execution_units(module, torch.zeros(1, 1, 16, 16))
        repaired = DEFENSES.build("cem", params).fit(
            module, units, "head", 0, tiny_data, RunContext(), prepare=lambda images: images, cut="features.3"
        )
        assert "device has to add it" in repaired.notes[0]
        found[weight] = spread(repaired.module)
    assert found[16.0] < 0.5 * found[0.0]


def test_features_are_drawn_to_clusters_of_their_own_class():
    """The second row, of class 1, lies on the cluster of class 0: that is no reason to leave it there."""
    centroids, each = torch.tensor([[0.0, 0.0], [4.0, 0.0]]), torch.tensor([0, 1])
    term = entropy_term(torch.zeros(2, 2), each, centroids, each, torch.ones(2), floor=0.01, gamma=0.01)
    assert float(term) == pytest.approx(0.5 * torch.tensor(8.01 / 0.02).log().item(), rel=1e-5)


def test_shrunken_features_earn_cem_nothing(tiny_data):
    """The same network with features a hundred times smaller has the same loss, noise and entropy term included."""
    losses = []
    for size in (1.0, 0.01):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = nn.Sequential(nn.Flatten(), nn.Linear(256, 8), nn.ReLU(), nn.Linear(8, 3))
        with torch.no_grad():
            network[1].weight.mul_(size)
            network[1].bias.mul_(size)
            network[3].weight.div_(size)
        units = execution_units(network, torch.zeros(1, 1, 16, 16))
        params = {"epochs": 1, "lr": 1e-9, "weight_decay": 0, "batch_size": 16, "augment": False}
        repaired = DEFENSES.build("cem", params).fit(
            network, units, "3", 0, tiny_data, RunContext(), prepare=lambda images: images, cut="1"
        )
        losses.append(repaired.history.loss[0])
    assert losses[0] > 2  # the entropy term is at work
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
