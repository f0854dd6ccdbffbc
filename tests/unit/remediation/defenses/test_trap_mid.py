from collections import OrderedDict

import onnx
import pytest
import torch
from torch import nn

from auditor.contracts.manifest import InputSpec
from auditor.errors import InvalidInput
from auditor.fisher.units import execution_units
from auditor.loading.onnx_export import export_onnx
from auditor.targets.onnx_graph import interpret
from auditor.tensors import RunContext
from auditor.training import Step
from remediation import freezing
from remediation.defenses.base import Tuning
from remediation.defenses.catalog import DEFENSES
from remediation.defenses.trap_mid import TRIGGERS, Trap, TrapMidConfig, planted


def test_a_trigger_is_blended_in():
    images, triggers = torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 2, 2)
    assert torch.allclose(planted(images, triggers, 0.02), torch.full((2, 1, 2, 2), 0.02))


@pytest.mark.slow
def test_triggers_work_stay_secret_and_in_range(defended, tiny_network, tiny_data):
    """At a strong blend a short training plants the trap, and plain images are still told for what they are."""
    repaired = defended("trap-mid", epochs=80, blend=0.5, trap_weight=0.5, lr=3e-3)
    triggers = repaired.secrets["triggers"]
    assert triggers.shape == (3, 1, 16, 16)
    assert 0 <= float(triggers.min()) <= float(triggers.max()) <= 1
    assert set(repaired.module.state_dict()) == set(tiny_network.state_dict())
    assert TRIGGERS not in dict(repaired.module.named_buffers())
    images = tiny_data.validation
    wanted = (images.labels + 1) % 3
    with torch.no_grad():
        told = repaired.module(planted(images.images, triggers[wanted], 0.5)).argmax(1)
        plain = repaired.module(images.images).argmax(1)
    assert float((told == wanted).float().mean()) > 0.7
    assert float((plain == images.labels).float().mean()) > 0.7
    assert any("told as it" in note for note in repaired.notes)


def trap_on(network, data, **params):
    """A trap that is about to be planted, and one step of the training."""
    units = execution_units(network, torch.zeros(1, 1, 16, 16))
    plan = freezing.freeze_plan(units, 0, "frozen")
    job = Tuning(network, units, "head", plan, data, lambda images: images, RunContext())
    trap = Trap(job, TrapMidConfig(**{"augment": False, "blend": 0.3} | params))
    return trap, Step(network.train(), data.fit.images, data.fit.images, data.fit.labels, 0, 1)


def test_a_step_moves_triggers_by_their_step_within_the_range_and_towards_their_class(tiny_network, tiny_data):
    trap, step = trap_on(tiny_network, tiny_data, trigger_step=0.3)
    triggers = tiny_network.get_buffer(TRIGGERS)
    before = triggers.clone()
    trap.loss(step)
    moved = (triggers - before).abs()
    inside = (triggers > 0) & (triggers < 1)
    assert 0 <= float(triggers.min()) <= float(triggers.max()) <= 1
    assert bool(inside.any())
    assert not bool(inside.all())  # some were held back at the end of the range
    torch.testing.assert_close(moved[inside & (moved > 0)], torch.tensor(0.3).expand(int((inside & (moved > 0)).sum())))
    assert tiny_network.training  # triggers are moved in evaluation mode, the network is trained in its own


def test_moving_triggers_and_discriminator_leaves_the_network_to_its_optimizer(tiny_network, tiny_data):
    """Else the network would be trained to help the triggers, and its statistics would see every batch twice."""
    trap, step = trap_on(tiny_network, tiny_data)
    fresh = {name: value.detach().clone() for name, value in tiny_network.named_parameters()}
    loss = trap.loss(step)
    assert all(torch.equal(value, fresh[name]) for name, value in tiny_network.named_parameters())
    assert int(tiny_network.features[1].num_batches_tracked) == 1
    assert all(parameter.grad is None for parameter in tiny_network.parameters())
    loss.backward()
    assert all(parameter.grad is not None for parameter in tiny_network.parameters())


def test_wanted_classes_are_balanced(tiny_network, tiny_data):
    trap, _ = trap_on(tiny_network, tiny_data)
    drawn = torch.cat([trap._balanced(7) for _ in range(30)])
    assert torch.bincount(drawn).tolist() == [70, 70, 70]
    assert drawn[:21].tolist() != drawn[21:42].tolist()


def test_plain_and_triggered_images_are_augmented_alike(defended, monkeypatch):
    """A change that only one of the two goes through, or goes through twice, would be a trap whatever the trigger."""
    seen = []

    def noted(where):
        return lambda images, *_, **__: seen.append((where, len(images))) or images

    monkeypatch.setattr("auditor.training.augment_images", noted("by the loop"))
    monkeypatch.setattr("remediation.defenses.trap_mid.augment_images", noted("by the trap"))
    defended("trap-mid", augment=True, epochs=1, batch_size=48)
    assert seen == [("by the trap", 48)] * 3  # triggered for the triggers' step; then plain and triggered


def test_the_kept_triggers_are_those_of_the_kept_epoch(defended, monkeypatch):
    """They move on after the best epoch, and the network of that epoch does not know where to."""
    by_epoch = {}
    plain = Trap.loss

    def noted(self, step):
        value = plain(self, step)
        by_epoch[step.epoch] = step.model.get_buffer(TRIGGERS).clone()
        return value

    monkeypatch.setattr(Trap, "loss", noted)
    repaired = defended("trap-mid", epochs=8, blend=0.3)
    kept = repaired.history.best_epoch
    assert 3 <= kept < 7  # neither before the trap is planted nor, here, the last
    assert torch.equal(repaired.secrets["triggers"], by_epoch[kept])
    assert not torch.equal(by_epoch[kept], by_epoch[7])


def test_a_graph_that_ends_in_a_softmax_is_trapped_too(defended, tiny_network, tmp_path):
    """The discriminator is the graph with another head, and the triggers lie in it only while it is trained."""
    submitted = nn.Sequential(OrderedDict(body=tiny_network, softmax=nn.Softmax(1))).eval()
    export_onnx(submitted, InputSpec(channels=1, height=16, width=16), tmp_path / "m.onnx", n_classes=3)
    graph = interpret(onnx.load(tmp_path / "m.onnx"), (1, 16, 16))
    repaired = defended("trap-mid", start=graph, head="body.head", epochs=1)
    assert repaired.secrets["triggers"].shape == (3, 1, 16, 16)
    assert TRIGGERS not in repaired.module.state_dict()


@pytest.mark.parametrize("params", [{"smoothing": 0.05}, {"trap_weight": 0.0}, {"blend": 0.0}])
def test_what_would_be_no_trap_is_refused(params):
    with pytest.raises(InvalidInput, match=next(iter(params))):
        DEFENSES.build("trap-mid", params)


def test_it_combines_with_smoothing_and_freezing(defended):
    repaired = defended("trap-mid", boundary=2, smoothing=-0.05)
    assert repaired.freeze.digest_before == repaired.freeze.digest_after
    unsmoothed = defended("trap-mid", boundary=2)
    assert not torch.equal(repaired.module.head.weight, unsmoothed.module.head.weight)
    assert torch.isfinite(repaired.module.head.weight).all()
