"""StyleGAN2 as a team submits it: in one file or in two, searched in z, W or P; parity, gradients, stages, attacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, leaky_relu

from auditor.attacks.catalog import ATTACKS
from auditor.contracts.manifest import GeneratorInput, GeneratorSpec
from auditor.errors import InvalidInput
from auditor.loading.generator import OnnxPrior, load_generator
from auditor.loading.styles import StyleSpace
from auditor.priors.base import Trait, sample_latents
from auditor.priors.resized import fit_prior
from auditor.targets.views import narrow
from auditor.tensors import RunContext
from auditor.testing import ToyTarget
from auditor.testing.onnx_models import exported_inputs
from auditor.testing.stylegan import Mapping, Synthesis, TinyStyleGan

LOW, HIGH = -4.0, 4.0


def networks(n_layers: int = 0, **how: Any) -> tuple[Mapping, Synthesis]:
    torch.manual_seed(3)
    return Mapping(n_layers=n_layers).eval(), Synthesis(**how).eval()


def spec(**files: Any) -> GeneratorSpec:
    return GeneratorSpec(**{"channels": 1, "height": 8, "width": 8, "low": LOW, "high": HIGH, **files})


def in_unit_range(out: Tensor) -> Tensor:
    return ((out - LOW) / (HIGH - LOW)).clamp(0, 1)


def save(path: Path, network: nn.Module, examples: dict[str, Tensor], **how: Any) -> Path:
    path.write_bytes(exported_inputs(network, examples, **how))
    return path


def in_two(folder: Path, mapping: Mapping, synthesis: Synthesis, *, layered: bool = False, **changes: Any) -> OnnxPrior:
    styles = torch.randn(2, 4, 16) if layered else torch.randn(2, 16)
    first = save(folder / "m.onnx", mapping, {"z": torch.randn(2, 16)})
    second = save(folder / "s.onnx", synthesis, {"w": styles})
    return load_generator(second, spec(mapping=first, synthesis=second, **changes), mapping=first)


@pytest.mark.parametrize(("dynamo", "opset"), [(False, 17), (True, 18)])
@pytest.mark.parametrize("grouped", [False, True])
def test_one_file_is_interpreted_faithfully_and_cut_at_w(
    tmp_path: Path, dynamo: bool, opset: int, grouped: bool
) -> None:
    mapping, synthesis = networks(grouped=grouped)
    network = TinyStyleGan(mapping, synthesis).eval()
    example = torch.randn(1 if grouped else 2, 16)  # a fused kernel has one group per picture: batches of one
    path = save(tmp_path / "g.onnx", network, {"z": example}, dynamo=dynamo, opset=opset, dynamic=not grouped)
    prior = load_generator(path, spec(path=path))
    assert (prior.latent_dim, prior.traits) == (16, {Trait.STAGES})
    z = torch.randn(3, 16, requires_grad=True)
    expected = in_unit_range(network(z))
    torch.testing.assert_close(prior.decode(z), expected, atol=1e-5, rtol=1e-4)
    (ours,) = torch.autograd.grad(prior.decode(z).square().sum(), z)
    (theirs,) = torch.autograd.grad(expected.square().sum(), z)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)
    first, second = prior.stages
    torch.testing.assert_close(first(z), mapping(z), atol=1e-5, rtol=1e-4)
    assert torch.equal(second(first(z)), prior.decode(z))


@pytest.mark.parametrize("space", ["w", "p"])
@pytest.mark.parametrize("layered", [False, True])
def test_two_files_are_searched_in_a_gaussian_fit_of_the_styles(tmp_path: Path, space: str, layered: bool) -> None:
    mapping, synthesis = networks()
    prior = in_two(tmp_path, mapping, synthesis, layered=layered, space=space)
    assert (prior.latent_dim, prior.traits) == (16, {Trait.STAGES})
    assert prior.config["space"] == space
    latents = sample_latents(prior, 4000, torch.Generator().manual_seed(1))
    styles, draw = prior.stages
    with torch.no_grad():
        drawn = styles(latents)
        assert drawn.shape == (4000, 64 if layered else 16)
        drawn, real = drawn[:, -16:], mapping(torch.randn(4000, 16))
        expected = in_unit_range(synthesis(drawn))
        torch.testing.assert_close(prior.decode(latents), expected, atol=1e-4, rtol=1e-3)
        assert torch.equal(draw(styles(latents)), prior.decode(latents))
    fitted, seen = ((leaky_relu(w, 5.0) if space == "p" else w) for w in (drawn, real))
    torch.testing.assert_close(
        fitted.mean(dim=0) / seen.std(dim=0), seen.mean(dim=0) / seen.std(dim=0), atol=0.1, rtol=0
    )
    torch.testing.assert_close(torch.corrcoef(fitted.T), torch.corrcoef(seen.T), atol=0.1, rtol=0)
    spread, wanted = (images.detach().std(dim=0).mean() for images in (expected, in_unit_range(synthesis(real))))
    assert 0.8 < float(spread / wanted) < 1.25


def test_a_fit_reaches_every_style_and_ignores_what_the_styles_share() -> None:
    mapping, _ = networks()
    with torch.no_grad():
        samples = mapping(torch.randn(8192, 16))
    fit = StyleSpace(samples, (16,))
    latents = torch.linalg.solve(fit.mixing, ((samples[:50] - fit.mean) / fit.std).T).T
    torch.testing.assert_close(fit(latents), samples[:50], atol=1e-3, rtol=1e-3)
    assert abs(float(latents.square().mean()) - 1) < 0.3
    torch.testing.assert_close(StyleSpace(samples, (16,)).mixing, fit.mixing, atol=0, rtol=0)


def test_layers_with_styles_of_their_own_are_all_searched() -> None:
    samples = torch.randn(4000, 2, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 2.0, 3.0]) + 5
    fit = StyleSpace(samples, (2, 3))
    assert fit.latent_dim == 6
    styles = fit(torch.randn(4000, 6)).reshape(4000, 2, 3)
    torch.testing.assert_close(styles.mean(dim=0), samples.mean(dim=0), atol=0.25, rtol=0)
    assert float(torch.corrcoef(styles.flatten(1).T).fill_diagonal_(0).abs().max()) < 0.1
    with pytest.raises(InvalidInput, match="gives 2100 unrelated style values"):
        StyleSpace(torch.randn(50, 3, 700), (3, 700))


class Filtered(nn.Module):
    """How StyleGAN2's own layers change size: zeros between pixels or a transposed convolution, then a fixed filter."""

    taps: Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        self.register_buffer("taps", (taps[:, None] * taps / 16)[None, None])
        self.fc = nn.Linear(5, 3 * 16)
        self.kernel = nn.Parameter(torch.randn(3, 3, 3, 3))

    def forward(self, z: Tensor) -> Tensor:
        x = self.fc(z).reshape(-1, 3, 4, 4)
        between = nn.functional.pad(x.reshape(-1, 3, 4, 1, 4, 1), [0, 1, 0, 0, 0, 1]).reshape(-1, 3, 8, 8)
        taps = self.taps.repeat(3, 1, 1, 1).flip([2, 3])
        plain = nn.functional.conv2d(nn.functional.pad(between, [2, 1, 2, 1]), taps, groups=3)
        grown = nn.functional.conv_transpose2d(x, self.kernel, stride=2)  # 9x9
        grown = nn.functional.conv2d(nn.functional.pad(grown, [1, 1, 1, 1]), taps, groups=3)
        shared = torch.einsum("bchw,bc->bhw", grown.clamp(-256, 256), z[:, :3])[:, None]
        return torch.lerp(plain, grown, 0.3).mean(dim=1, keepdim=True) + shared * z.norm(dim=1)[:, None, None, None]


@pytest.mark.parametrize(("dynamo", "opset"), [(False, 17), (True, 18)])
def test_filters_and_zeros_between_pixels(tmp_path: Path, dynamo: bool, opset: int) -> None:
    network = Filtered().eval()
    path = save(tmp_path / "g.onnx", network, {"z": torch.randn(2, 5)}, dynamo=dynamo, opset=opset)
    prior = load_generator(path, spec(path=path, low=-60, high=60))
    z = torch.randn(4, 5, requires_grad=True)
    torch.testing.assert_close(prior.decode(z), ((network(z) + 60) / 120).clamp(0, 1), atol=1e-5, rtol=1e-4)
    (gradient,) = torch.autograd.grad(prior.decode(z).square().sum(), z)
    assert (gradient.abs().sum(dim=1) > 0).all()


def test_a_truncation_inside_the_mapping_is_one_style_seen_layer_by_layer(tmp_path: Path) -> None:
    mapping, synthesis = networks(n_layers=4)
    first = save(tmp_path / "m.onnx", mapping, {"z": torch.randn(2, 16), "psi": torch.tensor(0.5)})
    second = save(tmp_path / "s.onnx", synthesis, {"w": torch.randn(2, 4, 16)})
    rules = {"psi": GeneratorInput(kind="constant", value=0.5)}
    prior = load_generator(second, spec(mapping=first, synthesis=second, inputs=rules), mapping=first)
    assert prior.latent_dim == 16
    with torch.no_grad():
        styles = prior.stages[0](torch.randn(500, 16)).reshape(500, 4, 16) - mapping.w_avg
    ratio = styles[:, :2].std(dim=0) / styles[:, 2:].std(dim=0)
    torch.testing.assert_close(ratio, torch.full_like(ratio, 0.5), atol=0.01, rtol=0.02)


def test_noise_of_the_synthesis_can_be_held_or_searched(tmp_path: Path) -> None:
    mapping, synthesis = networks()
    first = save(tmp_path / "m.onnx", mapping, {"z": torch.randn(2, 16)})
    second = save(tmp_path / "s.onnx", synthesis, {"w": torch.randn(2, 16), "noise": torch.randn(2, 1, 4, 4)})
    both = {"mapping": first, "synthesis": second}
    with pytest.raises(InvalidInput, match=r"2 inputs that `data.generator.inputs` does not name \(w, noise\)"):
        load_generator(second, spec(**both), mapping=first)
    held = spec(**both, inputs={"noise": GeneratorInput(kind="noise")})
    assert load_generator(second, held, mapping=first).latent_dim == 16
    searched = load_generator(second, spec(**both, inputs={"noise": GeneratorInput()}), mapping=first)
    latents = torch.randn(3, 32)
    with torch.no_grad():
        row = searched.stages[0](latents)
        expected = in_unit_range(synthesis(row[:, :16], latents[:, 16:].reshape(3, 1, 4, 4)))
    torch.testing.assert_close(searched.decode(latents), expected, atol=1e-4, rtol=1e-3)


def test_what_is_wrong_with_two_files(tmp_path: Path) -> None:
    mapping, synthesis = networks()
    with pytest.raises(InvalidInput, match=r"gives styles of shape \(4, 16\), the synthesis takes \(16,\)"):
        in_two(tmp_path, networks(n_layers=4)[0], synthesis)
    with pytest.raises(InvalidInput, match="draws no classes: give the input 'z' a constant"):
        in_two(tmp_path, mapping, synthesis, inputs={"z": GeneratorInput(kind="labels")})
    with pytest.raises(ValueError, match="either `path`"):
        spec(path=tmp_path, mapping=tmp_path)
    with pytest.raises(ValueError, match=r"or both `mapping` and `synthesis`.*`space: p` needs"):
        spec(synthesis=tmp_path, space="p")


@pytest.mark.parametrize("files", [1, 2])
@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("ppa", {"pool": 100, "steps": 30, "transforms": 2}),
        ("mirror-b", {"pool": 100, "population": 10, "generations": 15}),
    ],
)
def test_attacks_rebuild_what_the_generator_can_draw(
    tmp_path: Path, files: int, name: str, params: dict[str, Any]
) -> None:
    mapping, synthesis = networks()
    if files == 2:
        prior = in_two(tmp_path, mapping, synthesis, space="p")
    else:
        path = save(tmp_path / "g.onnx", TinyStyleGan(mapping, synthesis), {"z": torch.randn(2, 16)})
        prior = load_generator(path, spec(path=path))
    with torch.no_grad():
        templates = in_unit_range(synthesis(mapping(torch.randn(4, 16, generator=torch.Generator().manual_seed(8)))))
    attack = ATTACKS.build(name, params)
    target = ToyTarget(templates, sharpness=2.0)
    result = attack.run(narrow(target, attack.access), prior, (0, 1, 2, 3), 2, RunContext())
    assert result.complete
    with torch.no_grad():
        chance = prior.decode(sample_latents(prior, 8, torch.Generator().manual_seed(5)))
        reached, random = (cross_entropy(target.logits(images), result.labels) for images in (result.images, chance))
    assert float(reached) < 0.25 * float(random)


def test_projection_and_another_size(tmp_path: Path) -> None:
    prior = in_two(tmp_path, *networks())
    wanted = prior.decode(sample_latents(prior, 4, torch.Generator().manual_seed(2)))
    with torch.no_grad():
        error = (prior.decode(prior.project(wanted, RunContext())) - wanted).square().mean()
        blank = (prior.decode(torch.zeros(4, 16)) - wanted).square().mean()
    assert float(error) < 0.1 * float(blank)
    resized = fit_prior(prior, (1, 12, 10))
    value = z = torch.randn(2, 16)
    for stage in resized.stages:
        value = stage(value)
    assert torch.equal(value, resized.decode(z))
    assert value.shape == (2, 1, 12, 10)
