import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from auditor.contracts.repair import NormMode
from auditor.fisher.units import execution_units
from auditor.targets.architectures import build_architecture
from auditor.tensors import ImageBatch, RunContext
from remediation import freezing, frozen_front
from remediation.frozen_front import front_once
from remediation.model_source import GraphSource

CTX = RunContext(batch_size=32)
SIZE = 32


def batch(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return ImageBatch(torch.rand(n, 3, SIZE, SIZE, generator=generator), torch.arange(n) % 4)


def frozen(module, boundary, mode=NormMode.FROZEN):
    plan = freezing.freeze_plan(execution_units(module, torch.zeros(1, 3, SIZE, SIZE)), boundary, mode)
    freezing.apply(module, plan)
    return plan


def built(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_architecture(name, n_classes=4, channels=3)


@pytest.mark.parametrize(
    ("name", "boundary", "shape"),
    [
        ("small-cnn", 1, (32, 32, 32)),
        ("small-cnn", 4, (64, 8, 8)),
        ("small-cnn", 6, (128, 2, 2)),
        ("small-resnet", 2, (32, 16, 16)),
        ("resnet18", 4, (128, 4, 4)),
        ("convnext_tiny", 3, (96, 8, 8)),
    ],
)
def test_features_take_the_images_place_as_late_as_the_plan_allows(name, boundary, shape):
    module = built(name)
    once = front_once(module, frozen(module, boundary), batch(6), batch(3, 1), CTX, prepare=lambda images: images)
    assert once.fit.images.shape[1:] == shape
    module.eval()
    assert torch.allclose(once.tail(once.fit.images), module(batch(6).images), atol=1e-4)
    assert torch.equal(once.validation.labels, batch(3).labels)


@pytest.mark.parametrize("boundary", [2, 5])
def test_training_from_features_gives_what_training_from_images_gives(make_bench, monkeypatch, boundary):
    fast = make_bench().fit("tl-dmi", boundary=boundary, epochs=3, patience=None)
    monkeypatch.setattr(frozen_front, "MAX_BYTES", 0)
    slow = make_bench().fit("tl-dmi", boundary=boundary, epochs=3, patience=None)
    assert fast.history.loss == pytest.approx(slow.history.loss, abs=1e-4)
    for name, value in slow.module.state_dict().items():
        assert torch.allclose(fast.module.state_dict()[name], value, atol=1e-3), name


class Counted(nn.Module):
    """Counts the images that pass."""

    def __init__(self):
        super().__init__()
        self.n_images = 0

    def forward(self, x):
        self.n_images += len(x)
        return x


def test_the_front_sees_every_image_once_and_not_in_every_epoch(make_bench):
    bench = make_bench()
    module = bench.module.features
    module.insert(1, counted := Counted())
    bench.fit("tl-dmi", boundary=1, epochs=1)
    after_one = counted.n_images
    counted.n_images = 0
    bench.fit("tl-dmi", boundary=1, epochs=9)
    more = counted.n_images - after_one
    assert 0 <= more < 9 * 10  # a blank picture per step and nothing else; nine epochs of 24 images would be 192 more


def test_statistics_that_move_are_not_kept():
    module = built("small-cnn")
    plan = frozen(module, 3, NormMode.REFERENCE)
    before = copy.deepcopy(module.state_dict())
    assert front_once(module, plan, batch(6), batch(3), CTX, prepare=lambda images: images) is None
    module.load_state_dict(before)


class Noise(nn.Module):
    """Never twice the same."""

    def forward(self, x):
        return x + torch.rand_like(x)


def between(layer):
    return nn.Sequential(nn.Conv2d(3, 8, 3), layer, nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8 * 28 * 28, 4))


def test_dropout_after_the_front_still_drops():
    module = between(nn.Dropout(0.5))
    once = front_once(module, frozen(module, 1), batch(6), batch(3), CTX, prepare=lambda images: images)
    module.train()
    assert not torch.equal(once.tail(once.fit.images), once.tail(once.fit.images))


def test_features_that_differ_every_time_are_not_kept():
    module = nn.Sequential(Noise(), between(nn.ReLU()))
    assert front_once(module, frozen(module, 1), batch(6), batch(3), CTX, prepare=lambda images: images) is None


def test_nothing_frozen_and_too_large_features_train_from_images(monkeypatch):
    module = built("small-cnn")
    assert front_once(module, frozen(module, 0), batch(4), batch(2), CTX, prepare=lambda images: images) is None
    monkeypatch.setattr(frozen_front, "MAX_BYTES", 1000)
    assert front_once(module, frozen(module, 3), batch(4), batch(2), CTX, prepare=lambda images: images) is None


def test_a_submitted_graph_is_cut_as_well(make_submission):
    submission = make_submission("onnx")
    source = GraphSource(submission.root / "inputs/model", submission.card)
    module = source.fresh(CTX)
    images = torch.rand(6, 1, 16, 16)
    plan = freezing.freeze_plan(execution_units(module, images[:1]), 3, NormMode.FROZEN)
    freezing.apply(module, plan)
    given = ImageBatch(images, torch.arange(6) % 4)
    once = front_once(module, plan, given, replace(given), CTX, prepare=lambda x: x)
    assert once is not None
    module.eval()
    assert torch.allclose(once.tail(once.fit.images), module(images), atol=1e-4)
