"""Models that nobody here trained."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from auditor.contracts.access import Access
from auditor.contracts.manifest import GeneratorSpec, InputSpec, ModelSpec
from auditor.contracts.submission import Output
from auditor.loading.generator import load_generator
from auditor.loading.inspection import inspect_model
from auditor.loading.target_loading import load_target

pytestmark = pytest.mark.shared_data


def shared(name: str) -> Path:
    root = Path(os.environ.get("AUDITOR_SHARED_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"))
    path = root / name
    if not path.exists():
        pytest.skip(f"{name} is not here (set AUDITOR_SHARED_DATA to the folder that holds it)")
    return path


@pytest.mark.parametrize(
    ("name", "shape", "output"),
    [
        ("mnist_lenet5.onnx", (1, 32, 32), Output.LOG_PROBABILITIES),
        ("cifar10_resnet20.onnx", (3, 32, 32), Output.LOGITS),
    ],
)
def test_a_real_classifier_loads_white_box_with_parity(name: str, shape: tuple[int, int, int], output: Output) -> None:
    path = shared(name)
    card = inspect_model(path, ModelSpec(name="real"))
    assert card.parity is not None
    assert card.parity.max_abs_error < 5e-5
    assert Access.WHITE_BOX in card.access
    assert (card.n_classes, card.output, card.unsupported_operators) == (10, output, ())
    assert card.input == InputSpec(channels=shape[0], height=32, width=32)
    target = load_target(path, card, torch.device("cpu"))
    images = torch.rand(4, *shape, requires_grad=True)
    target.logits(images)[:, 0].sum().backward()
    assert images.grad is not None
    assert float(images.grad.abs().sum()) > 0


def test_a_real_generator_becomes_a_prior() -> None:
    path = shared("mnist_gan_mlp_generator.onnx")
    prior = load_generator(path, GeneratorSpec(path=path, channels=1, height=28, width=28))
    images = prior.decode(torch.randn(16, 64, generator=torch.Generator().manual_seed(0)))
    assert images.shape == (16, 1, 28, 28)
    assert 0 <= float(images.min()) < 0.05
    assert 0.9 < float(images.max()) <= 1
    assert 0.05 < float(images.mean()) < 0.3  # ink on paper
