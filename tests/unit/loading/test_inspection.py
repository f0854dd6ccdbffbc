"""What a sound submission's card says, and that everything wrong with another is said at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from safetensors.torch import save_file
from torch import nn

from auditor.contracts.access import Access
from auditor.contracts.manifest import InputSpec, ModelSpec
from auditor.contracts.submission import ModelFormat, Output
from auditor.errors import InvalidInput
from auditor.loading import inspection
from auditor.loading.digests import weights_digest
from auditor.loading.inspection import inspect_model
from auditor.loading.onnx_export import export_onnx
from auditor.loading.target_loading import load_target
from auditor.targets.architectures import SmallCnn, build_architecture
from auditor.targets.onnx_graph import GraphModule
from auditor.targets.ort_session import OnnxScoreTarget
from auditor.targets.torch_target import TorchTarget
from auditor.testing.onnx_models import exported, model, randomised

INPUT = InputSpec(channels=3, height=16, width=16, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
CPU = torch.device("cpu")


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return randomised(build_architecture("small-cnn", n_classes=5, channels=3))


@pytest.fixture(scope="module")
def onnx_bytes(network: nn.Module) -> bytes:
    return exported(network, (3, 16, 16), opset=17, dynamo=False)


def test_an_onnx_submission_is_described_and_loads_as_what_it_is(
    tmp_path: Path, network: nn.Module, onnx_bytes: bytes
) -> None:
    path = write(tmp_path / "m.onnx", onnx_bytes)
    card = inspect_model(path, ModelSpec(name="faces", input=INPUT))
    assert (card.format, card.n_classes, card.output) == (ModelFormat.ONNX, 5, Output.LOGITS)
    assert card.architecture.startswith("onnx:")
    assert card.access == (Access.WHITE_BOX, Access.SCORE, Access.LABEL)
    assert card.parity is not None
    assert card.parity.passed
    assert card.parity.batch_sizes == (1, 3, 8)
    assert card.parity.max_abs_error < 1e-5
    assert card.inferred["n_classes"] == "5"
    assert any("holds no norms" in text for text in card.warnings)
    target = load_target(path, card, CPU)
    assert isinstance(target, TorchTarget)
    assert isinstance(target.module, GraphModule)
    images = torch.rand(3, 3, 16, 16, requires_grad=True)
    mean, std = torch.tensor(INPUT.mean).view(3, 1, 1), torch.tensor(INPUT.std).view(3, 1, 1)
    torch.testing.assert_close(target.logits(images), network((images - mean) / std), atol=1e-4, rtol=1e-4)


def test_what_the_file_says_itself_is_inferred_and_shown(tmp_path: Path, onnx_bytes: bytes) -> None:
    card = inspect_model(write(tmp_path / "m.onnx", onnx_bytes), ModelSpec(name="m"))
    assert card.input == InputSpec(channels=3, height=16, width=16)
    assert "3x16x16" in card.inferred["input"]
    assert inspect_model(tmp_path / "m.onnx", ModelSpec(name="m", architecture="small-cnn")).architecture == "small-cnn"


@pytest.mark.parametrize("kind", [ModelFormat.SAFETENSORS, ModelFormat.STATE_DICT])
def test_bare_weights_with_an_architecture(tmp_path: Path, network: nn.Module, kind: ModelFormat) -> None:
    path = tmp_path / "weights"
    state = network.state_dict()
    save_file(state, path) if kind is ModelFormat.SAFETENSORS else torch.save(state, path)
    card = inspect_model(path, ModelSpec(name="m", architecture="small-cnn", input=INPUT))
    assert (card.format, card.n_classes, card.parity) == (kind, 5, None)
    assert card.weights_digest == weights_digest(network)
    assert card.inferred == {"n_classes": "5"}
    target = load_target(path, card, CPU)
    images = torch.rand(2, 3, 16, 16)
    mean, std = torch.tensor(INPUT.mean).view(3, 1, 1), torch.tensor(INPUT.std).view(3, 1, 1)
    torch.testing.assert_close(target.logits(images), network((images - mean) / std), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "wrap", [lambda s: {"state_dict": s, "epoch": 3}, lambda s: {f"module.{k}": v for k, v in s.items()}]
)
def test_checkpoints_and_wrapped_names_are_unwrapped_and_said_so(
    tmp_path: Path, network: nn.Module, wrap: object
) -> None:
    path = tmp_path / "m.pt"
    torch.save(wrap(network.state_dict()), path)  # type: ignore[operator]
    card = inspect_model(path, ModelSpec(name="m", architecture="small-cnn", input=INPUT))
    assert card.weights_digest == weights_digest(network)
    assert set(card.inferred) & {"state-dict", "prefix"}


def test_names_that_do_not_match_are_listed_exactly(tmp_path: Path, network: nn.Module) -> None:
    state = {k.replace("head.", "fc."): v for k, v in network.state_dict().items() if k != "features.0.weight"}
    state["features.3.weight"] = torch.zeros(4, 4, 3, 3)
    torch.save(state, tmp_path / "m.pt")
    with pytest.raises(InvalidInput) as caught:
        inspect_model(tmp_path / "m.pt", ModelSpec(name="m", architecture="small-cnn", input=INPUT, n_classes=5))
    text = "; ".join(caught.value.problems)
    assert "lack features.0.weight, head.weight, head.bias" in text
    assert "unexpected fc.weight, fc.bias" in text
    assert "features.3.weight (4, 4, 3, 3) instead of (32, 32, 3, 3)" in text


def test_all_problems_of_bare_weights_come_together(tmp_path: Path, network: nn.Module) -> None:
    torch.save({**network.state_dict(), "head.bias": torch.full((5,), torch.nan)}, tmp_path / "m.pt")
    with pytest.raises(InvalidInput) as caught:
        inspect_model(tmp_path / "m.pt", ModelSpec(name="m", architecture="no-such-net"))
    text = "; ".join(caught.value.problems)
    assert all(part in text for part in ("not on the allow-list", "model.input", "not finite"))


def test_all_problems_of_an_onnx_file_come_together(tmp_path: Path, onnx_bytes: bytes) -> None:
    proto = onnx.load_model_from_string(onnx_bytes)
    bad = numpy_helper.to_array(proto.graph.initializer[0]).copy()
    bad.flat[0] = np.nan
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(bad, proto.graph.initializer[0].name))
    path = write(tmp_path / "m.onnx", proto.SerializeToString())
    wrong = InputSpec(channels=3, height=32, width=32)
    with pytest.raises(InvalidInput) as caught:
        inspect_model(path, ModelSpec(name="m", architecture="nope", input=wrong, n_classes=9))
    text = "; ".join(caught.value.problems)
    assert "not finite" in text
    assert "not on the allow-list" in text
    assert "takes rows of shape (3, 16, 16), but the manifest says 3 channels of 32x32" in text


def test_class_count_and_input_size_that_do_not_match(tmp_path: Path, network: nn.Module, onnx_bytes: bytes) -> None:
    path = write(tmp_path / "m.onnx", onnx_bytes)
    with pytest.raises(InvalidInput, match="has 5 classes, but the manifest says 9"):
        inspect_model(path, ModelSpec(name="m", n_classes=9))
    torch.save(network.state_dict(), tmp_path / "m.pt")
    with pytest.raises(InvalidInput, match="weights have 5 classes, but the manifest says 9"):
        inspect_model(tmp_path / "m.pt", ModelSpec(name="m", architecture="small-cnn", input=INPUT, n_classes=9))
    torch.save(build_architecture("mobilenet_v3_small", n_classes=2, channels=3).state_dict(), tmp_path / "m.pt")
    flat = InputSpec(channels=1, height=16, width=16)
    with pytest.raises(InvalidInput, match=r"another shape for features\.0\.0\.weight"):
        inspect_model(tmp_path / "m.pt", ModelSpec(name="m", architecture="mobilenet_v3_small", input=flat))


def linear(weight: np.ndarray, *after: onnx.NodeProto, shape: tuple[object, ...] = ("n", 1, 8, 8)) -> bytes:
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["l"]), *after]
    output = after[-1].output[0] if after else "l"
    return model(
        nodes, shape, [numpy_helper.from_array(weight.astype(np.float32), "w")], output=output, output_shape=("n", "k")
    ).SerializeToString()  # type: ignore[arg-type]


RNG = np.random.default_rng(0)


def test_a_model_that_does_not_look_at_its_input(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", linear(np.zeros((64, 3))))
    with pytest.raises(InvalidInput, match="output is constant"):
        inspect_model(path, ModelSpec(name="m"))


def test_a_model_of_one_class(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", linear(RNG.normal(size=(64, 1))))
    with pytest.raises(InvalidInput, match="at least two"):
        inspect_model(path, ModelSpec(name="m"))


def test_a_graph_that_ends_in_argmax(tmp_path: Path) -> None:
    top = helper.make_node("ArgMax", ["l"], ["y"], axis=1, keepdims=0)
    proto = onnx.load_model_from_string(linear(RNG.normal(size=(64, 3)), top))
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", onnx.TensorProto.INT64, ["n"]))
    with pytest.raises(InvalidInput, match="ArgMax"):
        inspect_model(write(tmp_path / "m.onnx", proto.SerializeToString()), ModelSpec(name="m"))


def test_a_graph_that_runs_only_at_the_batch_size_it_was_exported_with(tmp_path: Path) -> None:
    shape = numpy_helper.from_array(np.array([2, 64], np.int64), "s")
    nodes = [helper.make_node("Reshape", ["x", "s"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"])]
    weight = numpy_helper.from_array(RNG.normal(size=(64, 3)).astype(np.float32), "w")
    path = write(
        tmp_path / "m.onnx", model(nodes, ("n", 1, 8, 8), [shape, weight], output_shape=("n", 3)).SerializeToString()
    )
    with pytest.raises(InvalidInput, match="cannot run the model"):
        inspect_model(path, ModelSpec(name="m"))


def test_several_inputs_or_outputs(tmp_path: Path) -> None:
    proto = onnx.load_model_from_string(linear(RNG.normal(size=(64, 3))))
    proto.graph.input.append(helper.make_tensor_value_info("z", 1, ["n", 2]))
    with pytest.raises(InvalidInput, match=r"2 inputs \(x, z\)"):
        inspect_model(write(tmp_path / "m.onnx", proto.SerializeToString()), ModelSpec(name="m"))
    proto = onnx.load_model_from_string(linear(RNG.normal(size=(64, 3))))
    proto.graph.output.append(helper.make_tensor_value_info("f", 1, ["n", 64]))
    with pytest.raises(InvalidInput, match="2 outputs"):
        inspect_model(write(tmp_path / "m.onnx", proto.SerializeToString()), ModelSpec(name="m"))
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("l", 1, ["n", 3]))
    card = inspect_model(write(tmp_path / "m.onnx", proto.SerializeToString()), ModelSpec(name="m", n_classes=3))
    assert card.inferred["output"] == "'l' of 2 outputs"
    target = load_target(tmp_path / "m.onnx", card, CPU)
    assert target.logits(torch.rand(2, 1, 8, 8)).shape == (2, 3)


def test_an_input_without_an_image_size_must_be_declared(tmp_path: Path) -> None:
    weight = RNG.normal(size=(64, 3))
    path = write(tmp_path / "m.onnx", linear(weight, shape=("n", 1, "h", "w_")))
    with pytest.raises(InvalidInput, match=r"give `model\.input`"):
        inspect_model(path, ModelSpec(name="m"))
    spec = ModelSpec(name="m", input=InputSpec(channels=1, height=8, width=8))
    assert inspect_model(path, spec).n_classes == 3


@pytest.mark.parametrize("rows", [("n", 64), ("n", 8, 8)])
def test_flat_input_is_read_as_images(tmp_path: Path, rows: tuple[object, ...]) -> None:
    path = write(tmp_path / "m.onnx", linear(RNG.normal(size=(64, 3)), shape=rows))
    card = inspect_model(path, ModelSpec(name="m", input=InputSpec(channels=1, height=8, width=8)))
    assert "layout" in card.inferred
    assert load_target(path, card, CPU).logits(torch.rand(2, 1, 8, 8)).shape == (2, 3)


def test_channels_last_input_is_read_as_images(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", linear(RNG.normal(size=(8 * 9 * 3, 4)), shape=("n", 8, 9, 3)))
    card = inspect_model(path, ModelSpec(name="m"))
    assert (card.input.channels, card.input.height, card.input.width) == (3, 8, 9)
    assert card.parity is not None
    assert card.parity.passed


def test_a_final_softmax_is_recognised(tmp_path: Path) -> None:
    weight = RNG.normal(size=(64, 3))
    softmax = helper.make_node("Softmax", ["l"], ["y"], axis=1)
    path = write(tmp_path / "m.onnx", linear(weight, softmax))
    card = inspect_model(path, ModelSpec(name="m"))
    assert card.output is Output.PROBABILITIES
    images = torch.rand(2, 1, 8, 8)
    expected = (images.flatten(1) @ torch.tensor(weight).float()).log_softmax(1)
    torch.testing.assert_close(load_target(path, card, CPU).logits(images), expected, atol=1e-4, rtol=1e-4)


def test_probabilities_made_by_hand_are_recognised_by_their_numbers(tmp_path: Path) -> None:
    weight = RNG.normal(size=(64, 3)) * 0.1
    by_hand = [
        helper.make_node("Exp", ["l"], ["e"]),
        helper.make_node("ReduceSum", ["e", "one"], ["t"], keepdims=1),
        helper.make_node("Div", ["e", "t"], ["y"]),
    ]
    proto = onnx.load_model_from_string(linear(weight, *by_hand))
    proto.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "one"))
    path = write(tmp_path / "m.onnx", proto.SerializeToString())
    card = inspect_model(path, ModelSpec(name="m"))
    assert card.output is Output.PROBABILITIES
    assert card.parity is not None
    assert card.parity.passed
    images = torch.rand(2, 1, 8, 8)
    expected = (images.flatten(1) @ torch.tensor(weight).float()).log_softmax(1)
    torch.testing.assert_close(load_target(path, card, CPU).logits(images), expected, atol=1e-4, rtol=1e-4)


def test_unsupported_operators_leave_score_level_attacks_only(tmp_path: Path) -> None:
    odd = helper.make_node("Acosh", ["p"], ["y"])
    positive = [helper.make_node("Abs", ["l"], ["a"]), helper.make_node("Add", ["a", "one"], ["p"])]
    proto = onnx.load_model_from_string(linear(RNG.normal(size=(64, 3)), *positive, odd))
    proto.graph.initializer.append(numpy_helper.from_array(np.array(1, np.float32), "one"))
    path = write(tmp_path / "m.onnx", proto.SerializeToString())
    card = inspect_model(path, ModelSpec(name="m"))
    assert card.unsupported_operators == ("Acosh",)
    assert card.access == (Access.SCORE, Access.LABEL)
    assert any("score-level" in text for text in card.warnings)
    target = load_target(path, card, CPU)
    assert isinstance(target, OnnxScoreTarget)
    assert target.logits(torch.rand(2, 1, 8, 8)).shape == (2, 3)


def test_failed_parity_leaves_score_level_attacks_only(
    tmp_path: Path, onnx_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    faithful = inspection.interpret

    def unfaithful(*args: object, **kwargs: object) -> GraphModule:
        module = faithful(*args, **kwargs)  # type: ignore[arg-type]
        with torch.no_grad():
            next(module.parameters()).mul_(1.1)
        return module

    monkeypatch.setattr(inspection, "interpret", unfaithful)
    card = inspect_model(write(tmp_path / "m.onnx", onnx_bytes), ModelSpec(name="m"))
    assert card.parity is not None
    assert not card.parity.passed
    assert card.access == (Access.SCORE, Access.LABEL)
    assert any("differs from onnxruntime" in text for text in card.warnings)


def test_a_file_that_changed_since_it_was_inspected_is_not_loaded(tmp_path: Path, onnx_bytes: bytes) -> None:
    path = write(tmp_path / "m.onnx", onnx_bytes)
    card = inspect_model(path, ModelSpec(name="m"))
    write(path, linear(RNG.normal(size=(64, 3))))
    with pytest.raises(InvalidInput, match="its hash differs"):
        load_target(path, card, CPU)


def test_export_writes_one_checked_file_with_a_free_batch(tmp_path: Path) -> None:
    net = SmallCnn(4, 1, (4, 4)).train()
    spec = InputSpec(channels=1, height=16, width=16)
    error = export_onnx(net, spec, tmp_path / "m.onnx", n_classes=4)
    assert error < 1e-5
    assert net.training
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    card = inspect_model(tmp_path / "m.onnx", ModelSpec(name="m", input=spec))
    assert card.n_classes == 4
    with pytest.raises(InvalidInput, match="expected 9"):
        export_onnx(net, spec, tmp_path / "other.onnx", n_classes=9)
    assert not (tmp_path / "other.onnx").exists()


def test_the_weights_digest_depends_on_names_values_and_statistics(network: nn.Module) -> None:
    same, other = (
        build_architecture("small-cnn", n_classes=5, channels=3),
        build_architecture("small-cnn", n_classes=5, channels=3),
    )
    same.load_state_dict(network.state_dict())
    other.load_state_dict(network.state_dict())
    assert weights_digest(same) == weights_digest(network)
    with torch.no_grad():
        next(iter(other.buffers())).add_(1)
    assert weights_digest(other) != weights_digest(network)
    assert weights_digest(nn.Sequential(network)) != weights_digest(network)
