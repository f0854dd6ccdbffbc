"""The demo's classifier learns, reproducibly."""

import torch

from auditor.demo import target
from auditor.demo.sources import demo_data
from auditor.demo.target import train_demo_target
from auditor.tensors import RunContext
from auditor.training import TrainConfig, top_k_accuracy


def test_it_learns_and_the_seed_decides(monkeypatch):
    monkeypatch.setattr(target, "_CONFIG", TrainConfig(epochs=12, batch_size=16, lr=4e-3, augment=False))
    data = demo_data("identities", 16, 0, n_private=3, n_public=1, per_private=16, per_public=1)
    first, again, other = (train_demo_target(data.private, (3, 16, 16), 3, RunContext(seed=s)) for s in (5, 5, 6))
    heldout = data.heldout.batch((3, 16, 16))
    assert top_k_accuracy(first, heldout, RunContext()) > 0.6
    assert not first.training
    with torch.no_grad():
        assert torch.equal(first(heldout.images), again(heldout.images))
        assert not torch.equal(first(heldout.images), other(heldout.images))


def test_it_leaves_the_global_generator_alone(monkeypatch):
    monkeypatch.setattr(target, "_CONFIG", TrainConfig(epochs=1, batch_size=4))
    data = demo_data("identities", 16, 0, n_private=2, n_public=1, per_private=2, per_public=1)
    before = torch.get_rng_state()
    train_demo_target(data.private, (3, 16, 16), 2, RunContext())
    assert torch.equal(before, torch.get_rng_state())
