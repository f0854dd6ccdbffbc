"""White-box targets."""

from __future__ import annotations

import pytest
import torch

from auditor.contracts.access import Access
from auditor.contracts.manifest import InputSpec
from auditor.contracts.submission import ModelFormat, Output, TargetCard
from auditor.targets.architectures import SmallCnn
from auditor.targets.preprocess import Preprocess
from auditor.targets.torch_target import TorchTarget

SPEC = InputSpec(channels=3, height=16, width=16, low=0, high=255, mean=(100, 110, 120), std=(50, 60, 70))


def card() -> TargetCard:
    return TargetCard(
        name="t",
        format=ModelFormat.SAFETENSORS,
        digest="0",
        weights_digest="0",
        architecture="small-cnn",
        n_classes=5,
        input=SPEC,
        output=Output.LOGITS,
        n_parameters=1,
        access=(Access.WHITE_BOX, Access.SCORE, Access.LABEL),
    )


def network() -> SmallCnn:
    torch.manual_seed(0)
    return SmallCnn(5, 3, (4, 4))


@pytest.mark.parametrize("channels_last", [True, False])
def test_images_in_zero_to_one_become_what_the_model_wants(channels_last: bool) -> None:
    module = network().train()
    target = TorchTarget(module, card(), channels_last=channels_last)
    images = torch.rand(4, 3, 16, 16)
    mean, std = torch.tensor(SPEC.mean).view(3, 1, 1), torch.tensor(SPEC.std).view(3, 1, 1)
    expected = module((images * 255 - mean) / std)
    torch.testing.assert_close(target.logits(images), expected, atol=1e-5, rtol=1e-4)
    assert not module.training
    torch.testing.assert_close(target.logits(images[:1]), expected[:1], atol=1e-5, rtol=1e-4)


def test_gradients_reach_the_images_and_not_the_weights() -> None:
    target = TorchTarget(network(), card())
    images = torch.rand(2, 3, 16, 16, requires_grad=True)
    target.logits(images).sum().backward()
    assert images.grad is not None
    assert float(images.grad.abs().sum()) > 0
    assert not any(p.requires_grad or p.grad is not None for p in target.module.parameters())


def test_images_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="takes images of shape"):
        TorchTarget(network(), card()).logits(torch.rand(2, 3, 16, 8))


def test_scaling_by_nothing_is_nothing() -> None:
    preprocess = Preprocess(InputSpec(channels=1, height=8, width=8))
    images = torch.rand(2, 1, 8, 8)
    assert preprocess(images) is images
