import math

import pytest
import torch
from torch import nn

from auditor.contracts.submission import ModelFormat
from auditor.tensors import RunContext
from remediation.defenses.calor import default_rank, low_rank_neck
from remediation.defenses.confidence_adaptation import capping_loss, resting_confidence


@pytest.mark.parametrize("gamma", [1.0, 4.0, 8.0])
def test_the_loss_is_lowest_at_the_resting_confidence(gamma):
    p = torch.linspace(1e-4, 1, 20001, dtype=torch.float64)
    loss = capping_loss(p.log(), gamma)
    assert float(p[loss.argmin()]) == pytest.approx(math.exp(-1 / gamma), abs=1e-4)
    assert resting_confidence(8.0) == pytest.approx(0.8825, abs=1e-4)
    assert float(loss[-1]) == 0
    at_rest = torch.tensor(-1 / gamma, dtype=torch.float64, requires_grad=True)
    capping_loss(at_rest, gamma).backward()
    assert float(at_rest.grad) == pytest.approx(0, abs=1e-12)


def test_an_image_the_model_is_unsure_of_hardly_counts():
    unsure, sure = torch.tensor([math.log(0.2), math.log(0.95)], requires_grad=True).unbind()
    pulls = torch.autograd.grad(capping_loss(unsure, 8.0) + capping_loss(sure, 8.0), (unsure, sure))
    assert abs(float(pulls[0])) < 1e-3 * abs(float(pulls[1]))


HEADS = [(nn.Linear(20, 9), (40, 20)), (nn.Conv2d(20, 9, 3, padding=1), (40, 20, 2, 2))]


@pytest.mark.parametrize(("head", "shape"), HEADS)
def test_scores_have_the_rank_of_the_neck(head, shape):
    generator = torch.Generator().manual_seed(0)
    neck = low_rank_neck(head, 4, generator).double().eval()
    features = torch.randn(shape, generator=generator, dtype=torch.float64)
    scores = neck(features)
    assert scores.shape == head.double()(features).shape
    rows = scores.movedim(1, -1).reshape(-1, 9) - neck[3].bias
    assert int(torch.linalg.matrix_rank(rows)) == 4
    assert int(torch.linalg.matrix_rank(head(features).movedim(1, -1).reshape(-1, 9) - head.bias)) == 9


def test_the_rank_follows_the_number_of_classes_and_stays_under_it():
    assert default_rank(530) == 46
    assert [default_rank(n) for n in (2, 3, 4, 60)] == [1, 2, 3, 15]
    assert all(default_rank(n) < n for n in range(2, 50))


def test_calor_repairs_and_says_what_it_did(make_bench):
    repaired = make_bench().fit("calor", epochs=15)
    assert repaired.heldout_accuracy.value > 0.6
    assert repaired.module.head[1].out_features == 2
    assert "2 values for 3 classes" in repaired.notes[0]
    assert "confidence" in repaired.notes[1]
    assert len(make_bench().fit("calor", adaptation_epochs=0).notes) == 1
    assert any("binds nothing" in note for note in make_bench().fit("calor", rank=3).notes)


def test_a_front_that_is_frozen_stays_as_it_was_through_both_stages(make_bench):
    bench = make_bench()
    before = {name: value.clone() for name, value in bench.module.state_dict().items()}
    repaired = bench.fit("calor", boundary=3)
    assert repaired.freeze.digest_before == repaired.freeze.digest_after
    state = repaired.module.state_dict()
    names = (*repaired.freeze.parameters, *repaired.freeze.buffers)
    assert all(torch.equal(state[name], before[name]) for name in names)


def test_one_seed_gives_one_result(make_bench):
    weights = [make_bench().fit("calor", seed=seed).module.head[3].weight for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.fixture
def confident(make_bench):
    """A bench whose network is surer of most of its training images than the resting confidence."""
    bench = make_bench()
    assert bench.fit("tl-dmi", epochs=15).heldout_accuracy.value > 0.8
    while true_confidence(bench).median() < 0.97:  # not up to 1, where the loss is flat and nothing would move
        for parameter in bench.module.head.parameters():
            parameter.data *= 1.1
    return bench


def true_confidence(bench):
    fit = bench.data.fit
    with torch.no_grad():
        return bench.module.eval()(fit.images).softmax(1).gather(1, fit.labels[:, None]).squeeze(1)


def test_the_second_stage_takes_confidence_over_its_resting_value_down(confident):
    before = true_confidence(confident)
    over = before > resting_confidence(8.0)
    repaired = confident.fit("confidence-adaptation", epochs=60, lr=0.2, boundary=6)
    assert float(true_confidence(confident)[over].mean()) < float(before[over].mean()) - 0.01
    assert repaired.heldout_accuracy.value > 0.6
    assert repaired.history.best_epoch == 59, "the last epoch is kept, not the most accurate one"
    assert "0.882" in repaired.notes[0]


def test_a_step_that_is_too_small_is_said_to_do_nothing(confident):
    assert "did not take hold" in confident.fit("confidence-adaptation", boundary=6, epochs=1, lr=1e-9).notes[0]


@pytest.mark.parametrize("kind", ["safetensors", "onnx"])
def test_the_reshaped_network_is_written_as_onnx_and_read_back(make_bench, tmp_path, kind):
    bench = make_bench()
    source = bench.source(tmp_path, kind)
    bench.module = source.fresh(RunContext())
    repaired = bench.fit("calor")
    card, worst = bench.read_back(source, repaired.module, tmp_path)
    assert card.format is ModelFormat.ONNX
    assert card.parity.passed
    assert worst < 1e-4


@pytest.mark.parametrize("kind", ["safetensors", "onnx"])
def test_confidence_adaptation_keeps_the_format(make_bench, tmp_path, kind):
    bench = make_bench()
    source = bench.source(tmp_path, kind, fresh=False)
    bench.module = source.submitted()
    repaired = bench.fit("confidence-adaptation")
    card, worst = bench.read_back(source, repaired.module, tmp_path)
    assert card.format == kind
    assert worst < 1e-4
