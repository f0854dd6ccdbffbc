"""The supervised loop: it learns, repeats itself, keeps the best epoch, and moves only what may move."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from auditor.errors import Cancelled
from auditor.targets.architectures import build_architecture
from auditor.tensors import ImageBatch, RunContext
from auditor.testing.builders import toy_images
from auditor.testing.toy import toy_templates
from auditor.training import Step, TrainConfig, augment_images, fit_classifier, predict, top_k_accuracy

TEMPLATES = toy_templates(4, (1, 8, 8))
TRAIN, VALIDATION = toy_images(TEMPLATES, 16, seed=0), toy_images(TEMPLATES, 6, seed=1)
CONFIG = TrainConfig(epochs=3, batch_size=16, augment=False)


def network(seed: int = 0) -> nn.Module:
    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 4))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim > 1:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        net[0].bias.zero_()
        net[4].bias.zero_()
    return net


def fitted(ctx: RunContext, **options) -> tuple[nn.Module, object]:
    net = network()
    config = options.pop("config", CONFIG)
    return net, fit_classifier(net, TRAIN, options.pop("validation", None), config, ctx, stage="test", **options)


def test_it_learns():
    net, history = fitted(RunContext(), config=TrainConfig(epochs=12, batch_size=16, augment=False))
    assert top_k_accuracy(net, VALIDATION, RunContext()) > 0.9
    assert history.loss[-1] < history.loss[0]
    assert not net.training


def test_same_seed_same_weights():
    first, second, other = (fitted(RunContext(seed=seed))[0].state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_global_randomness_is_neither_used_nor_touched():
    net, before = network(), torch.get_rng_state()
    fit_classifier(net, TRAIN, None, CONFIG.model_copy(update={"augment": True}), RunContext(), stage="test")
    assert torch.equal(torch.get_rng_state(), before)


def test_the_best_epoch_is_kept():
    net, history = fitted(
        RunContext(), validation=VALIDATION, config=TrainConfig(epochs=6, batch_size=16, lr=5e-2, augment=False)
    )
    best = max(history.validation_accuracy)
    assert history.validation_accuracy[history.best_epoch] == best
    assert top_k_accuracy(net, VALIDATION, RunContext()) == pytest.approx(best)


def test_patience_stops():
    wrong = ImageBatch(VALIDATION.images, (VALIDATION.labels + 1) % 4)
    config = TrainConfig(epochs=20, batch_size=16, patience=2, augment=False)
    _, history = fitted(RunContext(), validation=wrong, config=config)
    assert len(history.validation_accuracy) < 20


def test_only_what_requires_a_gradient_moves():
    net = network()
    net[0].weight.requires_grad_(False)
    before = net[0].weight.clone(), net[4].weight.clone()
    fit_classifier(net, TRAIN, None, CONFIG, RunContext(), stage="test")
    assert torch.equal(net[0].weight, before[0])
    assert not torch.equal(net[4].weight, before[1])


def test_frozen_norms_keep_their_statistics():
    def set_mode(model: nn.Module) -> None:
        model.train()
        model[1].eval()

    net = network()
    before = net[1].running_mean.clone()
    fit_classifier(net, TRAIN, None, CONFIG, RunContext(), stage="test", set_mode=set_mode)
    assert torch.equal(net[1].running_mean, before)
    fit_classifier(net, TRAIN, None, CONFIG, RunContext(), stage="test")
    assert not torch.equal(net[1].running_mean, before)


def test_degradation_is_applied_to_training_batches_alone():
    seen = []

    def degrade(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        seen.append((len(images), generator))
        return images * 0

    net, _ = fitted(RunContext(), validation=VALIDATION, degrade=degrade)
    assert [n for n, _ in seen] == [16] * 12
    assert top_k_accuracy(net, VALIDATION, RunContext()) < 0.6


def test_own_loss_and_preparation():
    calls = []

    def loss(step: Step) -> torch.Tensor:
        calls.append((step.epoch, step.n_epochs, len(step.labels)))
        assert torch.equal(step.inputs, step.images * 2 - 1)
        return nn.functional.cross_entropy(step.model(step.inputs), step.labels)

    fitted(RunContext(), loss=loss, prepare=lambda images: images * 2 - 1)
    assert sum(n for _, _, n in calls) == 3 * len(TRAIN)
    assert sorted({(epoch, of) for epoch, of, _ in calls}) == [(0, 3), (1, 3), (2, 3)]


def test_progress_and_cancelling():
    ticks = []
    fitted(RunContext(on_tick=lambda *tick: ticks.append(tick)))
    assert ticks == [("test", 1, 3), ("test", 2, 3), ("test", 3, 3)]
    with pytest.raises(Cancelled):
        fitted(RunContext(is_cancelled=lambda: True))


def test_labels_are_needed():
    bare = ImageBatch(TRAIN.images)
    with pytest.raises(ValueError, match="labels"):
        fit_classifier(network(), bare, None, CONFIG, RunContext(), stage="test")
    with pytest.raises(ValueError, match="labels"):
        top_k_accuracy(network(), bare, RunContext())


def test_prediction_does_not_depend_on_the_batch():
    net = build_architecture("small-cnn", n_classes=4, channels=1)
    small, large = (predict(net, TRAIN.images, RunContext(batch_size=size)) for size in (5, 512))
    assert torch.allclose(small, large, atol=1e-5)
    assert top_k_accuracy(net, TRAIN, RunContext(), k=4) == 1.0


def test_augmentation_keeps_shape_and_range_and_flips_only_when_allowed():
    images = torch.rand(64, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    changed = augment_images(images, torch.Generator().manual_seed(1))
    assert changed.shape == images.shape
    assert changed.min() >= 0
    assert changed.max() <= 1
    still = augment_images(images, torch.Generator().manual_seed(1), strength=0.0, flip=False)
    assert torch.allclose(still, images, atol=1e-4)
    flipped = augment_images(images, torch.Generator().manual_seed(1), strength=0.0, flip=True)
    rows = (flipped - images).abs().flatten(1).amax(dim=1) > 0.1
    assert 0.2 < float(rows.float().mean()) < 0.8
    assert torch.allclose(flipped[rows], images[rows].flip(3), atol=1e-4)
