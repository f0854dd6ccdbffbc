"""What a team may supply beside its model: a generator as prior, an embedder as judge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from auditor.contracts.manifest import GeneratorSpec, InputSpec, JudgeSpec
from auditor.errors import InvalidInput, RefusedFile
from auditor.loading.embedder import load_embedder
from auditor.loading.generator import load_generator
from auditor.targets.architectures import SmallCnn
from auditor.targets.onnx_graph import GraphModule
from auditor.tensors import RunContext
from auditor.testing.onnx_models import exported, model, randomised


class Drawer(nn.Module):
    """A small generator: latent to (3, 8, 8) in [-1, 1]."""

    def __init__(self, shaped: bool = True, slope: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(4, 8 * 4 * 4)
        self.up = nn.ConvTranspose2d(8, 3, 4, stride=2, padding=1)
        self.shaped, self.slope = shaped, slope

    def forward(self, z: Tensor) -> Tensor:
        x = leaky_relu(self.linear(z), self.slope).reshape(-1, 8, 4, 4)
        return torch.tanh(self.up(x)) if self.shaped else torch.tanh(self.up(x)).flatten(1)


def spec(path: Path, **changes: object) -> GeneratorSpec:
    return GeneratorSpec(**{"path": path, "channels": 3, "height": 8, "width": 8, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("shaped", [True, False])
def test_a_generator_becomes_a_prior(tmp_path: Path, shaped: bool) -> None:
    network = Drawer(shaped).eval()
    path = tmp_path / "g.onnx"
    path.write_bytes(exported(network, (4,), opset=17, dynamo=False))
    prior = load_generator(path, spec(path))
    assert (prior.name, prior.latent_dim, prior.image_shape) == ("onnx", 4, (3, 8, 8))
    z = torch.randn(5, 4, requires_grad=True)
    images = prior.decode(z)
    expected = (network(z).reshape(5, 3, 8, 8) + 1) / 2
    torch.testing.assert_close(images, expected, atol=1e-5, rtol=1e-4)
    images.sum().backward()
    assert z.grad is not None
    assert float(z.grad.abs().sum()) > 0
    assert not any(p.requires_grad for p in prior.generator.parameters())
    assert prior.critic(images) is None
    assert load_generator(path, spec(path)).digest == prior.digest
    assert load_generator(path, spec(path, low=-2.0)).digest != prior.digest


def test_the_same_weights_in_another_graph_are_another_prior(tmp_path: Path) -> None:
    """Else the ceiling of the one would be taken for the other's, which may draw nobody."""
    priors = []
    for name, slope in (("a", 0.2), ("b", 0.9)):
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(exported(Drawer(slope=slope).eval(), (4,), opset=17, dynamo=False))
        priors.append(load_generator(path, spec(path)))
    one, other = priors
    assert all(torch.equal(value, other.state()[key]) for key, value in one.state().items())
    assert not torch.allclose(one.decode(torch.ones(1, 4)), other.decode(torch.ones(1, 4)), atol=0.01)
    assert one.digest != other.digest


def test_projection_finds_pictures_the_generator_drew(tmp_path: Path) -> None:
    path = tmp_path / "g.onnx"
    path.write_bytes(exported(Drawer().eval(), (4,), opset=17, dynamo=False))
    prior = load_generator(path, spec(path))
    ctx = RunContext(seed=1)
    wanted = prior.decode(torch.randn(6, 4, generator=torch.Generator().manual_seed(3)))
    start = (prior.decode(prior.guess(wanted, ctx)) - wanted).square().mean()
    end = (prior.decode(prior.project(wanted, ctx)) - wanted).square().mean()
    blank = (prior.decode(torch.zeros(6, 4)) - wanted).square().mean()
    assert float(start) < 0.3 * float(blank)
    assert float(end) < 0.1 * float(start)
    assert torch.equal(prior.project(wanted, ctx), prior.project(wanted, ctx))


def test_what_is_wrong_with_a_generator(tmp_path: Path) -> None:
    path = tmp_path / "g.onnx"
    path.write_bytes(exported(Drawer().eval(), (4,), opset=17, dynamo=False))
    with pytest.raises(InvalidInput, match="gives 192 values per picture, but the manifest says 3 channels of 16x16"):
        load_generator(path, spec(path, height=16, width=16))
    with pytest.raises(InvalidInput, match="values reach from"):
        load_generator(path, spec(path, low=0.0))
    with pytest.raises(InvalidInput, match="`high` must be above"):
        load_generator(path, spec(path, low=1.0, high=0.0))
    zero = numpy_helper.from_array(np.zeros((4, 192), np.float32), "w")
    dead = model([helper.make_node("MatMul", ["x", "w"], ["y"])], ("n", 4), [zero], output_shape=("n", 192))
    path.write_bytes(dead.SerializeToString())
    with pytest.raises(InvalidInput, match="the same picture"):
        load_generator(path, spec(path))
    path.write_bytes(
        model([helper.make_node("Det", ["x"], ["y"])], ("n", 4, 4), output_shape=("n",)).SerializeToString()
    )
    with pytest.raises(InvalidInput, match=r"cannot be differentiated.*Det"):
        load_generator(path, spec(path))
    torch.save(nn.Linear(2, 2), path)
    with pytest.raises(RefusedFile):
        load_generator(path, spec(path))


def embedder_file(path: Path) -> tuple[SmallCnn, JudgeSpec]:
    network = randomised(SmallCnn(6, 3, (4, 8)))
    assert isinstance(network, SmallCnn)
    path.write_bytes(exported(network, (3, 16, 16), opset=17, dynamo=False))
    wants = InputSpec(channels=3, height=16, width=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return network, JudgeSpec(path=path, input=wants)


def test_an_embedder_takes_images_of_any_size_and_colour(tmp_path: Path) -> None:
    network, wants = embedder_file(tmp_path / "e.onnx")
    embed = load_embedder(tmp_path / "e.onnx", wants)
    images = torch.rand(3, 3, 16, 16)
    torch.testing.assert_close(embed(images), network(images * 2 - 1).detach(), atol=1e-4, rtol=1e-4)
    assert embed(torch.rand(2, 3, 40, 24)).shape == (2, 6)
    grey = torch.rand(2, 1, 16, 16)
    torch.testing.assert_close(embed(grey), embed(grey.expand(-1, 3, -1, -1)))
    assert isinstance(embed._network, GraphModule)


def test_an_embedder_is_another_one_where_its_file_or_its_input_is(tmp_path: Path) -> None:
    """Else what was measured with one reading of the images would be taken for the other's."""
    _, wants = embedder_file(tmp_path / "e.onnx")
    digest = load_embedder(tmp_path / "e.onnx", wants).digest
    assert load_embedder(tmp_path / "e.onnx", wants).digest == digest
    misread = wants.model_copy(update={"input": wants.input.model_copy(update={"high": 255.0})})
    assert load_embedder(tmp_path / "e.onnx", misread).digest != digest
    embedder_file(tmp_path / "other.onnx")
    assert load_embedder(tmp_path / "other.onnx", wants).digest != digest


def test_an_embedder_that_cannot_be_interpreted_runs_on_onnxruntime(tmp_path: Path) -> None:
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("Acosh", ["p"], ["y"])]
    nodes[1:1] = [helper.make_node("Abs", ["f"], ["a"]), helper.make_node("Add", ["a", "one"], ["p"])]
    one = numpy_helper.from_array(np.array(1, np.float32), "one")
    path = tmp_path / "e.onnx"
    path.write_bytes(model(nodes, ("n", 1, 8, 8), [one], output_shape=("n", 64)).SerializeToString())
    embed = load_embedder(path, JudgeSpec(path=path, input=InputSpec(channels=1, height=8, width=8)))
    images = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(embed(images), torch.acosh(images.flatten(1) + 1), atol=1e-4, rtol=1e-4)


def test_a_judge_of_another_size_than_declared_is_refused(tmp_path: Path) -> None:
    _, wants = embedder_file(tmp_path / "e.onnx")
    other = JudgeSpec(path=wants.path, input=InputSpec(channels=3, height=32, width=32))
    with pytest.raises(InvalidInput, match="takes rows of shape"):
        load_embedder(tmp_path / "e.onnx", other)
