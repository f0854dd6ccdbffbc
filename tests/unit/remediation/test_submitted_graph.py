import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from auditor.contracts.manifest import InputSpec, ModelSpec
from auditor.errors import UnsupportedModel
from auditor.fisher.units import execution_units
from auditor.loading.inspection import inspect_model
from auditor.loading.onnx_export import export_onnx
from auditor.loading.onnx_file import read_onnx
from auditor.targets.architectures import build_architecture
from auditor.targets.onnx_graph import interpret
from auditor.targets.ort_session import OrtSession
from auditor.tensors import RunContext
from remediation.folded_norms import fold_norms, unfold_norms
from remediation.graph_file import write_graph
from remediation.heads import find_head, replace_head
from remediation.model_source import GraphSource
from remediation.reinitialise import reinitialise

SPEC = InputSpec(channels=3, height=32, width=32)
X = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def exported(tmp_path, name="small-resnet"):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = build_architecture(name, n_classes=5, channels=3).train()
        module(torch.rand(8, 3, 32, 32))
    export_onnx(module.eval(), SPEC, tmp_path / "m.onnx", n_classes=5)
    return tmp_path / "m.onnx"


def load(path):
    return interpret(onnx.load(path), (3, 32, 32))


@pytest.mark.parametrize("name", ["small-cnn", "small-resnet"])
def test_norms_come_back_and_fold_again_without_changing_the_function(tmp_path, name):
    graph = load(exported(tmp_path, name))
    expected = graph(X).detach()
    n_convolutions = sum(isinstance(m, nn.Conv2d) for m in graph.modules())
    assert len(unfold_norms(graph)) == n_convolutions
    torch.testing.assert_close(graph(X).detach(), expected, rtol=1e-4, atol=1e-5)
    assert unfold_norms(graph) == ()
    graph.train()
    graph(X * 2)
    expected = graph.eval()(X).detach()
    fold_norms(graph)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in graph.modules())
    torch.testing.assert_close(graph(X).detach(), expected, rtol=1e-4, atol=1e-5)


def test_units_of_the_graph_with_its_norms_are_those_of_the_network(tmp_path):
    graph = load(exported(tmp_path))
    unfold_norms(graph)
    ours = execution_units(graph, X[:1])
    native = execution_units(build_architecture("small-resnet", n_classes=5, channels=3), X[:1])
    assert [unit.n_parameters for unit in ours] == [unit.n_parameters for unit in native]


def test_a_network_without_norms_gets_none(tmp_path):
    module = build_architecture("squeezenet1_1", n_classes=5, channels=3).eval()
    export_onnx(module, SPEC, tmp_path / "m.onnx", n_classes=5)
    assert unfold_norms(load(tmp_path / "m.onnx")) == ()


def test_retrained_weights_are_written_into_the_same_graph(tmp_path):
    path = exported(tmp_path)
    model, graph = onnx.load(path), load(path)
    with torch.no_grad():
        for parameter in graph.parameters():
            parameter.mul_(0.9).add_(0.01)
    write_graph(graph, model, tmp_path / "out.onnx")
    written = onnx.load(tmp_path / "out.onnx")
    onnx.checker.check_model(written)
    assert [node.op_type for node in written.graph.node] == [node.op_type for node in model.graph.node]
    found = OrtSession(written.SerializeToString()).run(X.numpy())
    np.testing.assert_allclose(found, graph(X).detach().numpy(), rtol=1e-3, atol=1e-4)


def test_constants_that_were_shared_by_accident_get_their_own_values(tmp_path):
    """Two layers whose zero biases an exporter merged, one of them behind a Transpose of a stored matrix."""
    rng = np.random.default_rng(0)
    weights = {"a": rng.normal(size=(6, 6)), "b": rng.normal(size=(6, 6)), "zeros": np.zeros(6)}
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("Gemm", ["f", "a", "zeros"], ["h"], transB=1),
        helper.make_node("Transpose", ["b"], ["bt"], perm=[1, 0]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "bt", "zeros"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 6, 1, 1])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 6])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    module = interpret(model, (6, 1, 1))
    with torch.no_grad():
        for index, parameter in enumerate(module.parameters()):
            parameter.add_(0.1 * (index + 1))
    write_graph(module, model, tmp_path / "out.onnx")
    written = onnx.load(tmp_path / "out.onnx")
    onnx.checker.check_model(written)
    x = torch.rand(4, 6, 1, 1)
    found = OrtSession(written.SerializeToString()).run(x.numpy())
    np.testing.assert_allclose(found, module(x).detach().numpy(), rtol=1e-5, atol=1e-5)


def test_fresh_weights_differ_from_the_submission_and_repeat_for_a_seed(tmp_path):
    path = exported(tmp_path)
    card = inspect_model(path, ModelSpec(name="m", input=SPEC))
    source = GraphSource(path, card)
    first, again, other = source.fresh(RunContext()), source.fresh(RunContext()), source.fresh(RunContext(seed=1))
    submitted = load(path)
    unfold_norms(submitted)
    for name, value in first.named_parameters():
        assert torch.equal(value, again.get_parameter(name))
        if value.ndim >= 2:
            assert not torch.equal(value, other.get_parameter(name))
            assert not torch.allclose(value, submitted.get_parameter(name))
    outputs = first(torch.rand(16, 3, 32, 32))
    assert torch.isfinite(outputs).all()
    assert outputs.std() > 0.01


def test_a_graph_with_parameters_of_unknown_kind_is_not_trained_from_scratch(tmp_path):
    graph = load(exported(tmp_path))
    graph.register_parameter("mystery", nn.Parameter(torch.zeros(3)))
    with pytest.raises(UnsupportedModel, match="mystery"):
        reinitialise(graph, torch.Generator())


@pytest.mark.parametrize("name", ["small-cnn", "resnet18", "vgg11_bn", "squeezenet1_1", "mobilenet_v3_small"])
def test_heads_are_found_and_replaced(name):
    module = build_architecture(name, n_classes=5, channels=3).eval()
    units = execution_units(module, X[:1])
    path = find_head(module, units, 5)
    names = replace_head(module, path, 11, torch.Generator().manual_seed(0))
    assert module(X).shape == (3, 11)
    assert set(names) <= {n for n, _ in module.named_parameters()}
    assert module.get_submodule(path).weight.std() > 0


def test_a_head_that_cannot_be_told_is_an_error():
    module = build_architecture("small-cnn", n_classes=5, channels=3)
    with pytest.raises(UnsupportedModel, match="no layer with 6 outputs"):
        find_head(module, execution_units(module, X[:1]), 6)


def test_the_graph_file_is_read_back_as_a_submission(tmp_path):
    path = exported(tmp_path)
    card = inspect_model(path, ModelSpec(name="m", input=SPEC))
    source = GraphSource(path, card)
    source.write(source.fresh(RunContext()).eval(), tmp_path / "again.onnx")
    found = read_onnx(tmp_path / "again.onnx", SPEC, 5)
    assert found.output == "logits"
    again = inspect_model(tmp_path / "again.onnx", ModelSpec(name="m", input=SPEC))
    assert again.parity.passed
    assert again.architecture == card.architecture
    assert again.weights_digest != card.weights_digest
