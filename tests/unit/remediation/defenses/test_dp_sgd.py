import math
import re

import pytest
import torch
from opacus.accountants import PRVAccountant, RDPAccountant

from auditor.errors import InvalidInput, UnsupportedModel
from auditor.targets.architectures import build_architecture
from auditor.tensors import RunContext
from remediation.defenses.catalog import DEFENSES
from remediation.private_training import hold_norms, unsupported_by_opacus

HEAD = 6
"""The boundary that leaves the head of small-cnn to be trained."""


def train(bench, **params):
    return bench.fit("dp-sgd", **{"boundary": HEAD, "epochs": 1, "accountant": "rdp", "delta": 1e-5} | params)


def epsilon(repaired):
    return float(re.search(r"epsilon ([\d.e+]+|inf) at", repaired.notes[0])[1])


def moved(before, after):
    """Norm of the change over all parameters, and the names that changed."""
    changes = {name: after[name] - before[name] for name in before if before[name].is_floating_point()}
    return math.sqrt(sum(float(c.square().sum()) for c in changes.values())), {
        name for name, change in changes.items() if change.abs().max() > 0
    }


def state(bench):
    return {name: value.clone() for name, value in bench.module.state_dict().items()}


@pytest.mark.parametrize("clip", [1e-3, 1e-1])
def test_the_step_is_the_mean_of_gradients_clipped_image_by_image(make_bench, clip):
    bench, plain = make_bench(), make_bench().module.eval()
    train(bench, noise=0.0, clip=clip, lr=0.5, batch_size=24, physical_batch=7)  # every image in the one step
    fit, clipped = bench.data.fit, []
    for image, label in zip(fit.images.split(1), fit.labels.split(1), strict=True):
        loss = torch.nn.functional.cross_entropy(plain(image), label)
        weight, bias = torch.autograd.grad(loss, list(plain.head.parameters()))
        norm = math.hypot(float(weight.norm()), float(bias.norm()))
        assert norm > clip
        clipped.append(weight * clip / norm)
    change = bench.module.head.weight.detach() - plain.head.weight.detach()
    expected = -0.5 * torch.stack(clipped).mean(0)
    assert float((change - expected).norm() / expected.norm()) < 1e-2  # weights round


def test_without_a_binding_norm_or_noise_the_step_is_that_of_plain_gradient_descent(make_bench):
    bench, plain = make_bench(), make_bench().module.eval()
    train(bench, noise=0.0, clip=1e6, lr=0.5, batch_size=24, physical_batch=7)
    fit = bench.data.fit
    loss = torch.nn.functional.cross_entropy(plain(fit.images), fit.labels)
    gradient = torch.autograd.grad(loss, plain.head.weight)[0]
    expected = plain.head.weight.detach() - 0.5 * gradient
    torch.testing.assert_close(bench.module.head.weight.detach(), expected, rtol=1e-4, atol=1e-6)


def test_the_noise_has_the_stated_spread(make_bench):
    bench = make_bench()
    before = state(bench)
    train(bench, noise=3.0, clip=0.2, lr=1.0, batch_size=24)
    change = (state(bench)["head.weight"] - before["head.weight"]).flatten()
    assert float(change.std()) == pytest.approx(3.0 * 0.2 / 24, rel=0.1)


def test_only_the_head_is_trained_by_default_and_the_rest_stays_bit_for_bit(make_bench):
    bench = make_bench()
    defense = DEFENSES.build("dp-sgd", {})
    assert defense.own_boundaries(len(bench.units)) == (HEAD,)
    before = state(bench)
    repaired = train(bench, epochs=2)
    assert moved(before, state(bench))[1] == {"head.weight", "head.bias"}
    assert repaired.freeze.digest_before == repaired.freeze.digest_after
    assert repaired.history.best_epoch == 1
    assert repaired.history.validation_accuracy == []
    assert not any(hasattr(parameter, "grad_sample") for parameter in bench.module.parameters())


def test_norms_of_trained_units_are_held_and_the_rest_of_the_unit_is_trained(make_bench):
    bench = make_bench()
    before = state(bench)
    repaired = train(bench, boundary=4, epochs=2)
    changed = moved(before, state(bench))[1]
    assert len(changed) == 4, "two convolutions, and the head's weight and bias"
    assert not any("running" in name or "num_batches" in name for name in changed)
    norms = [n for n, m in bench.module.named_modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert not any(name.startswith(f"{norm}.") for name in changed for norm in norms)
    assert "2 batch norms" in repaired.notes[-1]


@pytest.mark.parametrize(("accountant", "independent"), [("prv", PRVAccountant), ("rdp", RDPAccountant)])
def test_epsilon_is_what_opacus_counts_for_the_steps_done(make_bench, accountant, independent):
    repaired = train(make_bench(), accountant=accountant, noise=2.0, epochs=3, batch_size=6)
    other = independent()
    for _ in range(3 * 4):  # 24 images at a rate of 1/4
        other.step(noise_multiplier=2.0, sample_rate=0.25)
    assert epsilon(repaired) == pytest.approx(other.get_epsilon(1e-5), rel=1e-3)
    assert "12 steps" in repaired.notes[0]


def test_epsilon_falls_with_noise_and_without_any_there_is_none(make_bench):
    spent = [epsilon(train(make_bench(), noise=noise)) for noise in (0.0, 0.7, 1.5, 4.0)]
    assert spent == sorted(spent, reverse=True)
    assert spent[0] == math.inf
    assert spent[-1] < spent[1] / 3


def test_too_little_noise_for_numerical_composition_is_counted_by_moments(make_bench):
    repaired = train(make_bench(), accountant="prv", noise=0.05)
    assert "RDP accountant" in repaired.notes[0]
    assert 100 < epsilon(repaired) < math.inf


def test_a_batch_of_everybody_is_counted(make_bench):
    repaired = train(make_bench(), accountant="prv", noise=8.0, batch_size=512)
    assert "Poisson rate 1," in repaired.notes[0]
    assert "PRV accountant" in repaired.notes[0]
    assert 0 < epsilon(repaired) < epsilon(train(make_bench(), noise=8.0, batch_size=512))


def test_the_report_says_for_whom_the_guarantee_holds(make_bench):
    repaired = train(make_bench())
    text = " ".join(repaired.notes)
    assert "one record" in text
    assert "largest class (8 images)" in text
    assert "vacuous" in text
    assert "no guarantee" in " ".join(train(make_bench(), noise=0.0).notes)


def test_a_delta_that_allows_giving_one_image_away_is_refused(make_bench):
    with pytest.raises(InvalidInput, match="1/N"):
        train(make_bench(), delta=0.05)


def test_one_seed_gives_one_result_however_the_batch_is_cut(make_bench):
    runs = [
        train(make_bench(), epochs=2, batch_size=12, physical_batch=piece, seed=seed).module.head.weight.detach()
        for piece, seed in ((64, 0), (64, 0), (5, 0), (64, 1))
    ]
    assert torch.equal(runs[0], runs[1])
    torch.testing.assert_close(runs[0], runs[2], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(runs[0], runs[3], atol=1e-3)
    secret = [train(make_bench(), secret_noise=True).module.head.weight for _ in range(2)]
    assert not torch.equal(*secret)


def test_a_batch_in_which_nobody_was_drawn_is_a_step_of_noise(make_bench):
    bench = make_bench()
    before = state(bench)
    repaired = train(bench, batch_size=2, epochs=2, noise=1.0)
    assert "24 steps" in repaired.notes[0], "at a rate of 1/12 about a third of 24 batches are empty"
    assert moved(before, state(bench))[0] > 0


def test_images_are_trained_on_with_augmentation_where_asked(make_bench):
    plain, augmented = (train(make_bench(), augment=augment, noise=0.0).module.head.weight for augment in (False, True))
    assert not torch.equal(plain, augmented)


def test_an_interpreted_graph_can_be_trained(make_bench, tmp_path):
    bench = make_bench()
    source = bench.source(tmp_path, "onnx")
    bench.module = source.fresh(RunContext())
    repaired = train(bench, boundary=HEAD)
    card, worst = bench.read_back(source, repaired.module, tmp_path)
    assert worst < 1e-4
    assert card.format == "onnx"


def test_what_opacus_cannot_do_is_refused_with_what_to_do(make_bench):
    bench = make_bench()
    reference = DEFENSES.build("dp-sgd", {"norm_mode": "reference"})
    assert "Take `frozen`" in reference.inapplicable(bench.module, bench.units, bench.head)
    assert DEFENSES.build("dp-sgd", {}).inapplicable(bench.module, bench.units, bench.head) == ""
    assert DEFENSES.build("dp-sgd", {"boundaries": [0]}).inapplicable(bench.module, bench.units, bench.head) == ""
    norm = torch.nn.Sequential(torch.nn.InstanceNorm2d(3, affine=True, track_running_stats=True)).eval()
    assert unsupported_by_opacus(norm, {"0.weight", "0.bias"}) == ("0 (InstanceNorm2d)",)
    assert unsupported_by_opacus(norm, set()) == ()
    bench.module.features[3] = torch.nn.InstanceNorm2d(32, affine=True, track_running_stats=True)
    message = DEFENSES.build("dp-sgd", {"boundaries": [0]}).inapplicable(bench.module, bench.units, bench.head)
    assert "features.3 (InstanceNorm2d)" in message
    assert "trains the head alone" in message


class Unhookable(torch.nn.Module):
    """Uses a layer's weight without calling the layer."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(256, 8)
        self.head = torch.nn.Linear(8, 3)

    def forward(self, x):
        return self.head(torch.nn.functional.linear(x.flatten(1), self.first.weight))


def test_a_layer_whose_hooks_do_not_fire_is_found_before_the_first_step(make_bench):
    bench = make_bench()
    bench.module = Unhookable()
    before = state(bench)
    with pytest.raises(UnsupportedModel, match=r"first\.weight"):
        train(bench, boundary=0)
    assert moved(before, state(bench))[1] == set()


def test_held_norms_are_those_that_would_be_trained():
    module = build_architecture("small-cnn", n_classes=3, channels=1)
    module.features[1].requires_grad_(False)
    held = hold_norms(module)
    assert "features.1" not in held
    assert len(held) == 5
    assert not any(p.requires_grad for path in held for p in module.get_submodule(path).parameters())
