"""One model in other files answers alike, and other models do not."""

import pytest
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from safetensors.torch import save_file
from torch import nn

from auditor.contracts.manifest import InputSpec, ModelSpec
from auditor.contracts.submission import Output
from auditor.loading.answers import folded_answers
from auditor.loading.inspection import inspect_model
from auditor.service.outcomes import ALIKE, apart
from auditor.targets.architectures import build_architecture
from auditor.testing.onnx_models import exported, randomised

SPEC = ModelSpec(name="m", architecture="small-cnn", input=InputSpec(channels=3, height=32, width=32))
GRAPH = SPEC.model_copy(update={"architecture": None})


def network(seed=0):
    torch.manual_seed(seed)
    return randomised(build_architecture("small-cnn", n_classes=40, channels=3), seed)


def card_of(module, folder, spec=SPEC):
    save_file(module.state_dict(), folder / "m.safetensors")
    return inspect_model(folder / "m.safetensors", spec)


def card_of_graph(module, folder):
    (folder / "m.onnx").write_bytes(exported(module, (3, 32, 32), opset=17, dynamo=False))
    return inspect_model(folder / "m.onnx", GRAPH)


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    return card_of(network(), tmp_path_factory.mktemp("ours"))


@pytest.mark.parametrize("head", [None, nn.Softmax(1), nn.LogSoftmax(1)])
def test_an_export_with_other_names_folded_norms_and_another_output(ours, head, tmp_path):
    module = network() if head is None else nn.Sequential(network(), head)
    graph = card_of_graph(module, tmp_path)
    assert graph.weights_digest != ours.weights_digest
    assert apart(ours.answers, graph.answers) < 0.01


def test_channels_in_another_order(ours, tmp_path):
    module = network()
    first, norm, second = [part for part in module.modules() if isinstance(part, nn.Conv2d | nn.BatchNorm2d)][:3]
    order = torch.randperm(first.out_channels)
    with torch.no_grad():
        for tensor in (first.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.copy_(tensor[order].clone())
        second.weight.copy_(second.weight[:, order].clone())
    card = card_of(module, tmp_path)
    assert card.weights_digest != ours.weights_digest
    assert apart(ours.answers, card.answers) < 0.01


def test_halved_precision(ours, tmp_path):
    card = card_of(network().half().float(), tmp_path)
    assert 0 < apart(ours.answers, card.answers) < 0.02


def test_eight_bit_weights_and_activations(ours, tmp_path):
    card_of_graph(network(), tmp_path)
    quantize_dynamic(tmp_path / "m.onnx", tmp_path / "q.onnx", weight_type=QuantType.QUInt8)
    card = inspect_model(tmp_path / "q.onnx", GRAPH)
    assert 0.0005 < apart(ours.answers, card.answers) < ALIKE


def test_another_model_and_one_with_other_classes_answer_otherwise(ours, tmp_path):
    assert apart(ours.answers, card_of(network(1), tmp_path).answers) > 4 * ALIKE
    fewer = randomised(build_architecture("small-cnn", n_classes=39, channels=3))
    assert apart(ours.answers, card_of(fewer, tmp_path).answers) > 4 * ALIKE


def test_the_scale_at_which_scores_are_read_does_not_matter_nor_what_is_almost_impossible():
    scores = torch.tensor([[5.0, 0.0, -40.0], [0.0, 3.0, -60.0]])
    logits = folded_answers(scores + 100, Output.LOGITS)
    assert logits == pytest.approx(folded_answers(scores.softmax(1), Output.PROBABILITIES), abs=0.01)
    assert logits == pytest.approx(folded_answers(scores.log_softmax(1), Output.LOG_PROBABILITIES), abs=0.01)
    assert len(logits) == 16


def test_who_has_no_answers_is_like_nobody():
    assert apart((), (1.0,)) == apart((), ()) == apart((0.0,), (0.0,)) == float("inf")
