"""One model in other files answers alike, and other models do not."""

import numpy as np
import pytest
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from safetensors.torch import save_file
from torch import nn

from auditor.contracts.manifest import InputSpec, ModelSpec
from auditor.contracts.submission import Output
from auditor.loading.answers import folded_answers
from auditor.loading.inspection import inspect_model
from auditor.service.outcomes import ALIKE, apart
from auditor.targets.architectures import build_architecture
from auditor.testing.onnx_models import exported, randomised
from remediation.defenses.output_controls import ControlledScores, OutputControlsConfig

SPEC = ModelSpec(name="m", architecture="small-cnn", input=InputSpec(channels=3, height=32, width=32))
GRAPH = SPEC.model_copy(update={"architecture": None})


def network(seed=0):
    """As sure of itself as a trained one."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = randomised(build_architecture("small-cnn", n_classes=40, channels=3), seed)
    with torch.no_grad():
        for tensor in module.head.parameters():
            tensor.mul_(60)
    return module


def card_of(module, folder, spec=SPEC):
    save_file(module.state_dict(), folder / "m.safetensors")
    return inspect_model(folder / "m.safetensors", spec)


def card_of_graph(module, folder):
    (folder / "m.onnx").write_bytes(exported(module, (3, 32, 32), opset=17, dynamo=False))
    return inspect_model(folder / "m.onnx", GRAPH)


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    return card_of(network(), tmp_path_factory.mktemp("ours"))


@pytest.mark.parametrize("head", [None, nn.Softmax(1), nn.LogSoftmax(1), nn.Sigmoid()])
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
    assert 0 < apart(ours.answers, card.answers) < 0.03


class Pictures(CalibrationDataReader):
    """A few batches of noise."""

    def __init__(self):
        generator = np.random.default_rng(0)
        self.batches = iter([{"input": generator.random((1, 3, 32, 32), dtype=np.float32)} for _ in range(8)])

    def get_next(self):
        return next(self.batches, None)


def dynamic(source, target):
    quantize_dynamic(source, target, weight_type=QuantType.QUInt8)


def static(source, target):
    quantize_static(source, target, Pictures(), quant_format=QuantFormat.QDQ)


@pytest.mark.parametrize("quantised", [dynamic, static])
@pytest.mark.parametrize("control", [{"decimals": 1}, {"top_k": 3}, None])
def test_eight_bit_weights_and_activations(ours, quantised, control, tmp_path):
    """Of scores that are rounded or cut too, which jump."""
    module = network() if control is None else ControlledScores(network(), OutputControlsConfig(**control))
    before = card_of_graph(module, tmp_path)
    quantised(tmp_path / "m.onnx", tmp_path / "q.onnx")
    card = inspect_model(tmp_path / "q.onnx", GRAPH)
    assert card.weights_digest != before.weights_digest
    assert apart(before.answers, card.answers) < ALIKE
    assert (apart(ours.answers, before.answers) < 0.01) is (control is None)


def test_a_temperature(ours, tmp_path):
    module = network()
    with torch.no_grad():
        for tensor in (module.head.weight, module.head.bias):
            tensor.div_(1.3)
    assert apart(ours.answers, card_of(module, tmp_path).answers) < ALIKE


def test_another_model_and_one_with_other_classes_answer_otherwise(ours, tmp_path):
    assert apart(ours.answers, card_of(network(1), tmp_path).answers) > ALIKE
    fewer = randomised(build_architecture("small-cnn", n_classes=39, channels=3))
    assert apart(ours.answers, card_of(fewer, tmp_path).answers) > ALIKE


def test_the_scale_at_which_scores_are_read_does_not_matter_nor_what_is_almost_impossible():
    scores = torch.tensor([[4.0, 0.0, -40.0], [0.0, 3.0, -60.0]])
    logits = folded_answers(scores + 100, Output.LOGITS)
    assert logits == pytest.approx(folded_answers(scores.softmax(1), Output.PROBABILITIES), abs=0.01)
    assert logits == pytest.approx(folded_answers(scores.log_softmax(1), Output.LOG_PROBABILITIES), abs=0.01)
    assert len(logits) == 16


def test_who_has_no_answers_is_like_nobody():
    assert apart((), (1.0,)) == apart((), ()) == apart((0.0,), (0.0,)) == float("inf")
