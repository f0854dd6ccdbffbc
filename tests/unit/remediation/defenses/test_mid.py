import math

import pytest
import torch
from torch import nn

from auditor.targets.architectures import build_architecture
from auditor.tensors import RunContext
from remediation.defenses.catalog import DEFENSES
from remediation.defenses.mid import Bottleneck, gaussian_divergence
from remediation.freezing import frozen_digest
from remediation.model_source import same_build


def generator():
    return torch.Generator().manual_seed(0)


def test_the_divergence_is_that_of_two_gaussians():
    means, stds = torch.tensor([0.0, 1.0, -2.0, 0.3]), torch.tensor([1.0, 1.0, 0.5, 3.0])
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(means, stds), torch.distributions.Normal(torch.zeros(4), torch.ones(4))
    )
    torch.testing.assert_close(gaussian_divergence(means, stds), expected)
    assert float(gaussian_divergence(means, stds)[1]) == pytest.approx(0.5)


HEADS = [
    (nn.Linear(10, 4), (6, 10)),
    (nn.Linear(10, 4, bias=False), (6, 10)),
    (nn.Conv2d(10, 4, 1), (6, 10, 3, 3)),
    (nn.Conv2d(10, 4, 3, stride=2, padding=1), (6, 10, 5, 5)),
]


@pytest.mark.parametrize(("head", "shape"), HEADS)
def test_one_layer_computes_what_the_mean_of_the_bottleneck_does(head, shape):
    bottleneck = Bottleneck(head, 5, generator())
    for parameter in bottleneck.parameters():
        nn.init.normal_(parameter, generator=generator())
    features = torch.randn(shape, generator=generator())
    merged = bottleneck.eval().merged()
    assert type(merged) is type(head)
    assert (merged.bias is None) == (head.bias is None)
    assert merged.weight.shape == head.weight.shape
    torch.testing.assert_close(merged(features), bottleneck(features), rtol=1e-4, atol=1e-4)
    assert merged(features).shape == head(features).shape


def test_training_draws_a_sample_of_the_stated_spread_and_evaluation_none():
    bottleneck = Bottleneck(nn.Linear(10, 4), 5, generator())
    with torch.no_grad():
        bottleneck.encode.bias[5:] = 5 + math.log(math.expm1(2.0))  # a deviation of 2 in every value
        bottleneck.encode.weight.zero_()
    features = torch.zeros(4000, 10)
    spread = bottleneck(features).std(0)
    torch.testing.assert_close(spread, 2 * bottleneck.classify.weight.norm(dim=1), rtol=0.05, atol=0)
    assert float(bottleneck.divergence.detach()) == pytest.approx(5 * (1.5 - math.log(2)), rel=1e-4)
    bottleneck.eval()
    assert torch.equal(bottleneck(features), bottleneck(features))


def test_the_deployed_network_is_of_the_submitted_build_and_deterministic(make_bench):
    repaired = make_bench().fit("mid")
    assert same_build(repaired.module, build_architecture("small-cnn", n_classes=3, channels=1))
    images = make_bench.brightness().heldout.images
    assert torch.equal(repaired.module(images), repaired.module(images))
    assert "mean" in repaired.notes[0]


@pytest.mark.parametrize("kind", ["safetensors", "onnx"])
def test_the_merged_network_keeps_the_submitted_format(make_bench, tmp_path, kind):
    bench = make_bench()
    source = bench.source(tmp_path, kind)
    bench.module = source.fresh(RunContext())
    card, worst = bench.read_back(source, bench.fit("mid").module, tmp_path)
    assert card.format == kind
    assert worst < 1e-4


def test_a_high_price_leaves_nothing_to_classify_by(make_bench):
    free = make_bench().fit("mid", beta=0.0, epochs=15)
    dear = make_bench().fit("mid", beta=1e3, epochs=15)
    assert free.heldout_accuracy.value > 0.9
    assert dear.heldout_accuracy.value < free.heldout_accuracy.value
    images = make_bench.brightness().heldout.images
    spread = [float(repaired.module(images).detach().softmax(1).std(0).mean()) for repaired in (free, dear)]
    assert spread[1] < spread[0] / 3, "with a high price all images look alike to the classifier"


def test_a_front_that_is_frozen_stays_as_it_was(make_bench):
    bench = make_bench()
    before = {name: value.clone() for name, value in bench.module.state_dict().items()}
    repaired = bench.fit("mid", boundary=3)
    assert repaired.freeze.digest_before == repaired.freeze.digest_after
    assert frozen_digest(repaired.module, repaired.freeze) == repaired.freeze.digest_after
    state = repaired.module.state_dict()
    assert all(torch.equal(state[name], before[name]) for name in repaired.freeze.parameters)
    assert not torch.equal(state["head.weight"], before["head.weight"])


def test_one_seed_gives_one_result(make_bench):
    weights = [make_bench().fit("mid", seed=seed).module.head.weight for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_convolution_in_groups_is_refused_with_what_to_do(make_bench):
    bench = make_bench()
    mid = DEFENSES.build("mid", {})
    assert mid.inapplicable(bench.module, bench.units, bench.head) == ""
    grouped = nn.Sequential(nn.Conv2d(4, 4, 1, groups=2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert "1x1 convolution" in mid.inapplicable(grouped, (), "0")
