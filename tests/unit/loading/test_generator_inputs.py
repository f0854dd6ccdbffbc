"""Generators with several inputs: what is the latent, what is fed something else, and who knows classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from auditor.attacks.catalog import ATTACKS
from auditor.contracts.manifest import GeneratorInput, GeneratorSpec
from auditor.errors import InvalidInput
from auditor.loading.generator import load_generator
from auditor.loading.generator_inputs import Feed
from auditor.priors.base import Trait
from auditor.targets.views import narrow
from auditor.tensors import RunContext
from auditor.testing import ToyTarget
from auditor.testing.onnx_models import exported_inputs

K = 3


class TwoLatents(nn.Module):
    """A vector and a map make the picture; `gain` scales it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(4, 64)
        self.grow = nn.ConvTranspose2d(2, 1, 4, stride=4)

    def forward(self, z: Tensor, map: Tensor, gain: Tensor | None = None) -> Tensor:
        out = self.fc(z).reshape(-1, 1, 8, 8) + self.grow(map)
        return torch.tanh(out if gain is None else out * gain)


class OfClass(nn.Module):
    """A picture of a class, given one-hot or as a number."""

    def __init__(self, by_number: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.by_number = by_number
        self.table = nn.Embedding(K, 64)
        self.fc = nn.Linear(4, 64)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        base = self.table(y) if self.by_number else y @ self.table.weight
        return torch.tanh(base + 0.5 * self.fc(z)).reshape(-1, 1, 8, 8)


def spec(path: Path, inputs: dict[str, dict[str, Any]] | None = None, **changes: Any) -> GeneratorSpec:
    given = {name: GeneratorInput(**entry) for name, entry in (inputs or {}).items()}
    return GeneratorSpec(**{"path": path, "channels": 1, "height": 8, "width": 8, "inputs": given, **changes})


def save(path: Path, network: nn.Module, examples: dict[str, Tensor], **how: Any) -> Path:
    path.write_bytes(exported_inputs(network.eval(), examples, **how))
    return path


def in_unit_range(out: Tensor) -> Tensor:
    return (out + 1) / 2


@pytest.mark.parametrize("dynamo", [False, True])
def test_the_latent_is_shared_out_among_the_inputs(tmp_path: Path, dynamo: bool) -> None:
    network = TwoLatents().eval()
    path = save(
        tmp_path / "g.onnx", network, {"z": torch.randn(2, 4), "map": torch.randn(2, 2, 2, 2)}, dynamo=dynamo, opset=18
    )
    prior = load_generator(path, spec(path))
    assert (prior.latent_dim, prior.traits, prior.n_classes) == (12, frozenset(), 0)
    latents = torch.randn(5, 12, requires_grad=True)
    images = prior.decode(latents)
    expected = in_unit_range(network(latents[:, :4], latents[:, 4:].reshape(5, 2, 2, 2)))
    torch.testing.assert_close(images, expected, atol=1e-5, rtol=1e-4)
    (gradient,) = torch.autograd.grad(images.sum(), latents)
    assert (gradient.abs().sum(dim=0) > 0).all()
    assert load_generator(path, spec(path)).digest == prior.digest


def test_inputs_that_are_not_plain_latents(tmp_path: Path) -> None:
    network = TwoLatents().eval()
    examples = {"z": torch.rand(2, 4), "map": torch.randn(2, 2, 2, 2), "gain": torch.tensor(1.0)}
    path = save(tmp_path / "g.onnx", network, examples)
    rules = {"z": {"kind": "uniform", "low": 0, "high": 2}, "map": {"kind": "noise"}, "gain": {"kind": "constant"}}
    rules["gain"]["value"] = 0.5
    prior = load_generator(path, spec(path, rules))
    assert prior.latent_dim == 4
    latents = torch.randn(400, 4)
    share = torch.special.ndtr(latents) * 2
    feed = next(part for part in prior.generator.modules() if isinstance(part, Feed))
    noise = feed(latents)[:, 4:]
    assert torch.equal(noise, noise[:1].expand_as(noise))
    assert 0.5 < float(noise[0].std()) < 2
    expected = in_unit_range(network(share, noise.reshape(-1, 2, 2, 2), torch.tensor(0.5)))
    torch.testing.assert_close(prior.decode(latents), expected, atol=1e-5, rtol=1e-4)
    assert 0 <= float(share.min()) < 0.05 < 1.95 < float(share.max()) <= 2

    fixed = {"map": {"kind": "constant", "value": tuple(range(8))}, "gain": {"kind": "constant", "value": 1}}
    prior = load_generator(path, spec(path, fixed))
    expected = in_unit_range(network(latents, torch.arange(8.0).reshape(1, 2, 2, 2), torch.tensor(1.0)))
    torch.testing.assert_close(prior.decode(latents), expected, atol=1e-5, rtol=1e-4)


def test_a_file_for_one_batch_size(tmp_path: Path) -> None:
    network = TwoLatents().eval()
    examples = {"z": torch.rand(1, 4), "map": torch.randn(1, 2, 2, 2), "gain": torch.tensor([1.0])}
    path = save(tmp_path / "g.onnx", network, examples)
    with pytest.raises(InvalidInput, match="'gain' has no batch axis"):
        load_generator(path, spec(path))
    prior = load_generator(path, spec(path, {"gain": {"kind": "constant", "value": 1}}))
    latents = torch.randn(3, 12)
    expected = in_unit_range(network(latents[:, :4], latents[:, 4:].reshape(3, 2, 2, 2)))
    torch.testing.assert_close(prior.decode(latents), expected, atol=1e-5, rtol=1e-4)


def of_class(tmp_path: Path, by_number: bool) -> tuple[nn.Module, Path, dict[str, dict[str, Any]]]:
    network = OfClass(by_number).eval()
    y = torch.tensor([0, 1]) if by_number else torch.eye(K)[:2]
    path = save(tmp_path / "g.onnx", network, {"z": torch.randn(2, 4), "y": y})
    return network, path, {"y": {"kind": "labels", **({"n_classes": K} if by_number else {})}}


@pytest.mark.parametrize("by_number", [False, True])
def test_a_labels_input_of_the_models_size_makes_the_prior_conditional(tmp_path: Path, by_number: bool) -> None:
    network, path, rules = of_class(tmp_path, by_number)
    prior = load_generator(path, spec(path, rules), n_classes=K)
    assert (prior.latent_dim, prior.n_classes, prior.traits) == (4, K, {Trait.CONDITIONAL})
    latents, labels = torch.randn(6, 4, requires_grad=True), torch.arange(6) % K
    y = labels if by_number else torch.eye(K)[labels]
    images = prior.decode(latents, labels)
    torch.testing.assert_close(images, in_unit_range(network(latents, y)), atol=1e-5, rtol=1e-4)
    (gradient,) = torch.autograd.grad(images.sum(), latents)
    assert (gradient.abs().sum(dim=1) > 0).all()
    assert len(prior.stages) == 1
    assert torch.equal(prior.stages[0](latents, labels), images)
    with pytest.raises(ValueError, match="draws a class at a time"):
        prior.decode(latents)


def test_projection_and_attacks_draw_the_class_that_is_asked_for(tmp_path: Path) -> None:
    _, path, rules = of_class(tmp_path, by_number=True)
    prior = load_generator(path, spec(path, rules), n_classes=K)
    labels = torch.arange(6) % K
    with torch.no_grad():
        wanted = prior.decode(torch.randn(6, 4), labels)
        found = prior.decode(prior.project(wanted, RunContext(batch_size=4), labels), labels)
        other = prior.decode(prior.project(wanted, RunContext(), (labels + 1) % K), (labels + 1) % K)
        templates = prior.decode(torch.randn(K, 4), torch.arange(K))
    assert float((found - wanted).square().mean()) < 0.02 * float((other - wanted).square().mean())
    attack = ATTACKS.build("ppa", {"pool": 60, "steps": 30, "transforms": 2})
    view = narrow(ToyTarget(templates, sharpness=0.3), attack.access)
    result = attack.run(view, prior, (0, 1, 2), 2, RunContext())
    assert result.end_confidence.mean() > result.start_confidence.mean()
    assert float((result.images - templates[result.labels]).square().mean()) < 0.02


def test_classes_that_are_not_the_models(tmp_path: Path) -> None:
    _, path, rules = of_class(tmp_path, by_number=True)
    with pytest.raises(InvalidInput, match="tells 3 classes apart, but the model has 7"):
        load_generator(path, spec(path, rules), n_classes=7)
    with pytest.raises(InvalidInput, match="say how many classes it knows"):
        load_generator(path, spec(path, {"y": {"kind": "labels"}}), n_classes=K)
    with pytest.raises(InvalidInput, match="'y' holds integers: say in"):
        load_generator(path, spec(path), n_classes=K)
    prior = load_generator(path, spec(path, {"y": {"kind": "constant", "value": 2}}), n_classes=7)
    assert prior.traits == frozenset()
    network, path, _ = of_class(tmp_path, by_number=False)
    with pytest.raises(InvalidInput, match="'y' has 3 values per picture, as many as the model has classes"):
        load_generator(path, spec(path), n_classes=K)
    latents = torch.randn(3, 4 + K)
    prior = load_generator(path, spec(path, {"y": {"kind": "normal"}}), n_classes=K)
    expected = in_unit_range(network(latents[:, :4], latents[:, 4:]))
    torch.testing.assert_close(prior.decode(latents), expected, atol=1e-5, rtol=1e-4)


def test_everything_that_is_wrong_with_the_inputs_at_once(tmp_path: Path) -> None:
    examples = {"z": torch.rand(2, 4), "map": torch.randn(2, 2, 2, 2), "gain": torch.tensor(1.0)}
    path = save(tmp_path / "g.onnx", TwoLatents(), examples)
    rules = {"map": {"kind": "constant", "value": (1.0, 2.0)}, "psi": {"kind": "noise"}}
    with pytest.raises(InvalidInput) as caught:
        load_generator(path, spec(path, rules))
    text = "\n".join(caught.value.problems)
    assert "no input 'psi'; it has z, map, gain" in text
    assert "'map' holds 8 values, but `value` has 2" in text
    assert "'gain' has no batch axis, so it cannot be `normal`: give it a constant" in text
    every = {name: {"kind": "constant", "value": 1} for name in examples}
    with pytest.raises(InvalidInput, match="no latent input"):
        load_generator(path, spec(path, every))


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"kind": "constant"}, "`value` is needed"),
        ({"kind": "normal", "value": 1}, "belongs to no other kind"),
        ({"kind": "uniform", "low": 2, "high": 1}, "`high` must be above `low`"),
        ({"kind": "noise", "n_classes": 3}, "belongs to `kind: labels`"),
    ],
)
def test_an_entry_that_contradicts_itself(entry: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        GeneratorInput(**entry)
