import re
from itertools import groupby

import pytest
import torch
from torch import nn

from auditor.contracts.submission import ModelFormat
from auditor.targets.architectures import architecture_names, build_architecture
from auditor.targets.onnx_graph import GraphModule
from auditor.tensors import RunContext
from remediation.defenses.catalog import DEFENSES
from remediation.model_source import same_build
from remediation.offers import OFFERS
from remediation.skips import Scale, last_stage, scale_last_stage

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def built(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = build_architecture(name, n_classes=3, channels=3).eval()
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):  # statistics and scales other than those of a fresh norm
                nn.init.uniform_(layer.weight, 0.5, 1.5)
                nn.init.uniform_(layer.running_mean, -0.2, 0.2)
                nn.init.uniform_(layer.running_var, 0.5, 1.5)
    return module


def observed(module, paths):
    """Input and output of every module in `paths` on one forward pass."""
    seen, handles = {}, []
    for path in paths:
        handles.append(
            module.get_submodule(path).register_forward_hook(
                lambda _m, args, out, path=path: seen.__setitem__(path, (args[0].clone(), out.clone()))
            )
        )
    with torch.no_grad():
        module(IMAGES)
    for handle in handles:
        handle.remove()
    return seen


def by_hand(block, x, scale):
    """relu(F(x) + scale * shortcut(x)), from the weights of a residual block of torchvision's or our own."""
    convolutions = [
        (getattr(block, f"conv{n}"), getattr(block, f"bn{n}", getattr(block, f"norm{n}", None)))
        for n in (1, 2, 3)
        if hasattr(block, f"conv{n}")
    ]
    y = x
    for n, (convolution, norm) in enumerate(convolutions):
        y = norm(convolution(y))
        y = y.relu() if n < len(convolutions) - 1 else y
    projection = getattr(block, "downsample", getattr(block, "shortcut", None))
    skip = projection[1](projection[0](x)) if isinstance(projection, nn.Sequential) else x
    return (y + scale * skip).relu()


STAGES = {
    "resnet18": ("layer4.0", "layer4.1"),
    "resnet50": ("layer4.0", "layer4.1", "layer4.2"),
    "small-resnet": ("blocks.2",),
}


@pytest.mark.parametrize("scale", [0.0, 0.2])
@pytest.mark.parametrize("name", STAGES)
def test_a_block_gives_its_own_branch_plus_the_scaled_skip(name, scale):
    module = built(name)
    plain = built(name)
    assert scale_last_stage(module, scale) == STAGES[name]
    with torch.no_grad():
        for path, (x, out) in observed(module, STAGES[name]).items():
            torch.testing.assert_close(out, by_hand(plain.get_submodule(path), x, scale), rtol=1e-4, atol=1e-5)
            assert not torch.allclose(out, by_hand(plain.get_submodule(path), x, 1.0), atol=1e-3)


@pytest.mark.parametrize("name", STAGES)
def test_nothing_before_the_last_stage_changes_and_no_weight_is_renamed(name):
    module, plain = built(name), built(name)
    scale_last_stage(module, 0.0)
    assert list(module.state_dict()) == list(plain.state_dict())
    first = STAGES[name][0]
    torch.testing.assert_close(observed(module, [first])[first][0], observed(plain, [first])[first][0], rtol=0, atol=0)
    assert not same_build(module, plain)


def test_regnet_is_known_too():
    module = built("regnet_y_400mf")
    stage = scale_last_stage(module, 0.5)
    assert stage[0] == "trunk_output.block4.block4-0"
    assert len(stage) == sum(isinstance(m, Scale) for m in module.modules()) == 6


def graph_of(make_bench, name, folder):
    bench = make_bench(name)
    bench.module.eval()
    return bench, bench.source(folder, "onnx", fresh=False)


def test_a_graph_from_onnx_is_scaled_like_the_network_it_came_from(make_bench, tmp_path):
    bench, source = graph_of(make_bench, "resnet18", tmp_path)
    graph = source.submitted()
    assert isinstance(graph, GraphModule)
    assert len(scale_last_stage(graph, 0.3)) == 2
    scale_last_stage(bench.module, 0.3)
    images = bench.data.heldout.images
    with torch.no_grad():
        torch.testing.assert_close(graph(images), bench.module(images), rtol=1e-3, atol=1e-4)
        assert not torch.allclose(graph(images), source.submitted()(images), atol=1e-3)


class Plain(nn.Module):
    """Skips without projections: one block, a plain convolution, two more blocks."""

    def __init__(self):
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(1 if n == 0 else 4, 4, 3, padding=1) for n in range(5))
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        stem, first, between, second, third = self.convolutions
        x = stem(x).relu()
        x = (x + first(x)).relu()
        x = between(x).relu()
        x = (second(x) + x).relu()
        x = x + third(x)
        return self.head(x.mean((2, 3)))


def test_a_graph_without_projections_ends_where_blocks_do_not_follow_each_other(make_bench, tmp_path):
    bench = make_bench()
    bench.module = Plain().eval()
    graph = bench.source(tmp_path, "onnx", fresh=False).submitted()
    sums = [step.node for step in graph.program.steps if step.op == "Add"]
    assert len(sums) == 3
    assert last_stage(graph) == tuple(sums[1:])
    scale_last_stage(graph, 0.0)
    stem, first, between, second, third = bench.module.convolutions
    with torch.no_grad():
        x = stem(bench.data.heldout.images).relu()
        x = between((x + first(x)).relu()).relu()
        expected = bench.module.head(third(second(x).relu()).mean((2, 3)))
        torch.testing.assert_close(graph(bench.data.heldout.images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["safetensors", "onnx"])
def test_the_repaired_network_is_written_as_onnx_and_read_back(make_bench, tmp_path, kind):
    bench = make_bench("small-resnet")
    source = bench.source(tmp_path, kind, "small-resnet")
    bench.module = source.fresh(RunContext())
    repaired = bench.fit("rolss", scale=0.2, boundary=1)
    assert repaired.freeze.digest_before == repaired.freeze.digest_after
    assert "scaled by 0.2" in repaired.notes[0]
    card, worst = bench.read_back(source, repaired.module, tmp_path)
    assert card.format is ModelFormat.ONNX
    assert card.parity.passed
    assert worst < 1e-4


def test_a_network_without_known_skips_is_refused_with_what_to_do(make_bench, tmp_path):
    rolss = DEFENSES.build("rolss", {})
    assert rolss.inapplicable(built("resnet18"), (), "fc") == ""
    assert "submit it as ONNX" in rolss.inapplicable(built("mobilenet_v3_small"), (), "classifier.3")
    _, source = graph_of(make_bench, "small-cnn", tmp_path)
    assert "no skip" in rolss.inapplicable(source.submitted(), (), "head")


def family(name):
    return re.split(r"[\d_]", name)[0]


@pytest.mark.parametrize("name", [next(names) for _, names in groupby(architecture_names(), family)])
def test_what_the_offer_is_for_has_skips_and_nothing_else_has(name):
    assert bool(last_stage(built(name))) == name.startswith(OFFERS["rolss"].families)
