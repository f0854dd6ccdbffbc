import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from auditor.contracts.repair import NormMode
from auditor.errors import InvalidInput
from auditor.fisher.units import execution_units
from auditor.targets.architectures import build_architecture
from remediation import freezing
from remediation.freezing import FrozenStateMoved

X = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % 4


@pytest.fixture(params=["small-cnn", "small-resnet"])
def network(request):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_architecture(request.param, n_classes=4, channels=3)


def plan_of(module, boundary, mode=NormMode.FROZEN):
    return freezing.freeze_plan(execution_units(module, X[:1]), boundary, mode)


def train(module, plan, *, steps=3, weight_decay=0.1, parameters=None):
    """A few steps of the kind that has broken freezing before: momentum, weight decay, training mode at every step."""
    freezing.apply(module, plan)
    chosen = parameters or [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(chosen, lr=0.01, weight_decay=weight_decay)
    for _ in range(steps):
        freezing.set_mode(module, plan)
        loss = cross_entropy(module(X), Y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_boundary_zero_trains_everything_and_the_last_one_the_head_alone(network):
    n_units = len(execution_units(network, X[:1]))
    for boundary, wanted in (
        (0, {n for n, _ in network.named_parameters()}),
        (n_units - 1, {"head.weight", "head.bias"}),
    ):
        plan = plan_of(network, boundary)
        freezing.apply(network, plan)
        assert {n for n, p in network.named_parameters() if p.requires_grad} == wanted
        assert plan.tuned_parameters == sum(p.numel() for p in network.parameters() if p.requires_grad)
        assert plan.total_parameters == sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("boundary", [-1, 99])
def test_boundaries_that_do_not_exist_are_refused(network, boundary):
    with pytest.raises(InvalidInput, match="head is"):
        plan_of(network, boundary)


def test_every_boundary_freezes_exactly_its_units_and_no_norm_is_orphaned(network):
    units = execution_units(network, X[:1])
    for boundary in range(len(units)):
        plan = plan_of(network, boundary)
        freezing.apply(network, plan)
        frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
        assert frozen == {name for unit in units[:boundary] for name in unit.parameters}
        for path, module in network.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                home = next(unit for unit in units if f"{path}.weight" in unit.parameters)
                assert any(network.get_parameter(name).ndim == 4 for name in home.parameters)


@pytest.mark.parametrize("mode", list(NormMode))
def test_frozen_state_stays_and_only_reference_mode_moves_statistics(network, mode):
    plan = plan_of(network, 2, mode)
    before = freezing.seal(network, plan)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    train(network, plan)
    proof = freezing.proven(network, plan, before)
    after = network.state_dict()
    for name in plan.parameters:
        assert torch.equal(state[name], after[name])
    moved = [name for name in plan.buffers if not torch.equal(state[name], after[name])]
    assert bool(moved) == (mode is NormMode.REFERENCE)
    assert (proof.digest_before == proof.digest_after) == (mode is not NormMode.REFERENCE)
    assert any(not torch.equal(state[n], after[n]) for n in after if n not in (*plan.parameters, *plan.buffers))


def test_weight_decay_does_not_move_frozen_parameters_even_if_the_optimiser_holds_them(network):
    plan = plan_of(network, 2)
    before = freezing.seal(network, plan)
    train(network, plan, parameters=list(network.parameters()))
    freezing.proven(network, plan, before)


def test_moving_a_frozen_parameter_or_statistic_is_caught(network):
    plan = plan_of(network, 2)
    before = freezing.seal(network, plan)
    network.train()
    network(X)
    with pytest.raises(FrozenStateMoved, match="statistics"):
        freezing.proven(network, plan, before)
    for mode in NormMode:
        with torch.no_grad():
            network.get_parameter(plan.parameters[0]).add_(1e-7)
        with pytest.raises(FrozenStateMoved, match="parameters"):
            freezing.proven(network, plan.model_copy(update={"norm_mode": mode}), before)


def test_dropout_inside_frozen_units_is_off():
    module = build_architecture("vgg11_bn", n_classes=4, channels=3)
    plan = freezing.freeze_plan(execution_units(module, torch.rand(1, 3, 32, 32)), 10, NormMode.FROZEN)
    freezing.set_mode(module, plan)
    assert not module.classifier[2].training
    assert module.classifier[5].training  # right before the head: outside the frozen units
    assert not any(m.training for m in module.features.modules() if isinstance(m, nn.BatchNorm2d))


def test_a_plan_of_another_network_is_refused(network):
    plan = plan_of(network, 2)
    with pytest.raises(InvalidInput, match="does not have"):
        freezing.apply(build_architecture("alexnet", n_classes=4, channels=3), plan)


def test_recalibration_takes_the_statistics_of_the_public_images(network):
    plan = plan_of(network, 1, NormMode.RECALIBRATE_PUBLIC)
    freezing.recalibrate_norms(network, plan, [X[:6], X[6:]])
    name = next(path for path in plan.modules if isinstance(network.get_submodule(path), nn.BatchNorm2d))
    norm = network.get_submodule(name)
    conv = network.features[0] if hasattr(network, "features") else network.stem[0]
    torch.testing.assert_close(norm.running_mean, conv(X).mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert norm.momentum == 0.1
    later = [m for path, m in network.named_modules() if isinstance(m, nn.BatchNorm2d) and path not in plan.modules]
    assert all(bool((m.running_mean == 0).all()) for m in later)
