"""How the interpreter lays a graph out, and what it refuses."""

from __future__ import annotations

import copy
import gc
import weakref

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from auditor.contracts.submission import Output
from auditor.errors import UnsupportedModel
from auditor.targets.architectures import SmallCnn
from auditor.targets.onnx_graph import Layout, interpret, unsupported_operators
from auditor.targets.onnx_graph.folding import MAX_LIVE_ELEMENTS
from auditor.testing.onnx_models import exported, model, one_node, randomised

NARROW = (4, 4, 8, 8)


def const(name: str, array: np.ndarray) -> onnx.TensorProto:
    return numpy_helper.from_array(array, name)


def node(op: str, inputs: str, outputs: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


@pytest.fixture(scope="module")
def small() -> tuple[nn.Module, onnx.ModelProto]:
    network = randomised(SmallCnn(5, 3, NARROW))
    return network, onnx.load_model_from_string(exported(network, (3, 16, 16), opset=17, dynamo=False))


def test_nodes_with_weights_are_native_layers_under_readable_names(small: tuple[nn.Module, onnx.ModelProto]) -> None:
    module = interpret(small[1], (3, 16, 16))
    layers = {name: type(part) for name, part in module.named_modules() if list(part.parameters(recurse=False))}
    assert list(layers.values()) == [nn.Conv2d] * 4 + [nn.Linear]
    assert "head" in layers
    assert {b.parameter for b in module.bindings} == set(dict(module.named_parameters()))
    assert all(b.value in {t.name for t in small[1].graph.initializer} for b in module.bindings)
    assert not module.training
    assert all(p.requires_grad for p in module.parameters())


def test_bindings_say_how_to_find_a_parameter_in_the_file() -> None:
    matrix, bias = np.arange(12, dtype=np.float32).reshape(3, 4), np.ones(4, np.float32)
    proto = model(
        [node("MatMul", "x w", "a"), node("Add", "bias a", "y")], ("n", 3), [const("w", matrix), const("bias", bias)]
    )
    module = interpret(proto, (3,), classifier=False)
    by_value = {b.value: b for b in module.bindings}
    assert (by_value["w"].node, by_value["w"].position, by_value["w"].transposed) == ("a", 1, True)
    assert (by_value["bias"].node, by_value["bias"].position, by_value["bias"].transposed) == ("y", 0, False)
    state = module.state_dict()
    np.testing.assert_array_equal(state[by_value["w"].parameter].numpy().T, matrix)
    np.testing.assert_array_equal(state[by_value["bias"].parameter].numpy(), bias)


def test_what_is_trained_and_what_is_not() -> None:
    proto = model(
        [
            node("Sub", "x mean", "a"),
            node("Mul", "a half", "b"),
            node("BatchNormalization", "b scale shift m v", "c"),
            node("Add", "c position", "y"),
        ],
        ("n", 3, 4, 4),
        [
            const("mean", np.ones((1, 3, 1, 1), np.float32)),
            const("half", np.array(0.5, np.float32)),
            *[const(name, np.ones(3, np.float32)) for name in ("scale", "shift", "m", "v")],
            const("position", np.zeros((1, 3, 4, 4), np.float32)),
        ],
    )
    module = interpret(proto, (3, 4, 4), classifier=False)
    trained = {b.value for b in module.bindings if not b.buffer}
    assert trained == {"scale", "shift", "position"}
    assert {b.value for b in module.bindings if b.buffer} == {"m", "v"}
    assert len(list(module.parameters())) == 3  # equal vectors were merged by name only


def test_vectors_shared_by_an_exporter_are_parted_and_matrices_stay_tied() -> None:
    w, zero = np.eye(3, dtype=np.float32), np.zeros(3, np.float32)
    nodes = [node("Gemm", "x w zero", "a"), node("Relu", "a", "r"), node("Gemm", "r w zero", "y")]
    module = interpret(model(nodes, ("n", 3), [const("w", w), const("zero", zero)]), (3,), classifier=False)
    assert len(module.bindings) == 4
    assert len(list(module.parameters())) == 3


def test_any_batch_size_gives_the_same_rows(small: tuple[nn.Module, onnx.ModelProto]) -> None:
    module = interpret(small[1], (3, 16, 16))
    images = torch.rand(9, 3, 16, 16)
    whole = module(images)
    for rows in (1, 2, 9):
        torch.testing.assert_close(module(images[:rows]), whole[:rows], atol=1e-5, rtol=1e-5)


def test_per_sample_gradients_through_vmap_are_those_of_the_native_module(
    small: tuple[nn.Module, onnx.ModelProto],
) -> None:
    module = interpret(small[1], (3, 16, 16))
    parameters = {k: v.detach() for k, v in module.named_parameters()}
    images = torch.rand(3, 3, 16, 16)

    def loss(values: dict[str, torch.Tensor], image: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(module, values, (image[None],)).square().sum()

    fast = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, images)
    for row in range(3):
        module.zero_grad()
        module(images[row : row + 1]).square().sum().backward()
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None
            torch.testing.assert_close(fast[name][row], parameter.grad, atol=1e-4, rtol=1e-3)


def test_a_deep_copy_is_independent(small: tuple[nn.Module, onnx.ModelProto]) -> None:
    module = interpret(small[1], (3, 16, 16))
    other = copy.deepcopy(module)
    images = torch.rand(2, 3, 16, 16)
    before = module(images).detach()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert torch.equal(module(images), before)
    assert not torch.equal(other(images), before)


def test_channels_last_and_autocast(small: tuple[nn.Module, onnx.ModelProto]) -> None:
    module = interpret(small[1], (3, 16, 16))
    images = torch.rand(2, 3, 16, 16)
    plain = module(images)
    module = module.to(memory_format=torch.channels_last)
    last = module(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(last, plain, atol=1e-5, rtol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(module(images).float(), plain, atol=0.1, rtol=0.1)


def test_intermediate_values_are_dropped_after_their_last_use() -> None:
    nodes = [node("Relu", "x", "a"), node("Exp", "a", "b"), node("Tanh", "b", "c"), node("Neg", "c", "y")]
    module = interpret(model(nodes, ("n", 4)), (4,), classifier=False)
    alive: list[weakref.ref[torch.Tensor]] = []
    counts: list[int] = []

    def watched(step: object) -> object:
        def call(*args: torch.Tensor) -> torch.Tensor:
            gc.collect()
            counts.append(sum(r() is not None for r in alive))
            result = step.kernel(*args)  # type: ignore[attr-defined]
            alive.append(weakref.ref(result))
            return result

        return call

    for step in module.program.steps:
        object.__setattr__(step, "kernel", watched(copy.copy(step)))
    with torch.no_grad():
        module(torch.rand(2, 4))
    assert max(counts) == 1


def test_a_final_softmax_becomes_its_logarithm() -> None:
    weight = const("w", np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32) * 50)
    nodes = [node("MatMul", "x w", "a"), node("Softmax", "a", "s", axis=1), node("Identity", "s", "y")]
    module = interpret(model(nodes, ("n", 4), [weight]), (4,))
    assert module.output is Output.PROBABILITIES
    x = torch.rand(5, 4, requires_grad=True)
    out = module(x)
    torch.testing.assert_close(out.exp().sum(1), torch.ones(5))
    out[:, 0].sum().backward()
    assert x.grad is not None
    assert float(x.grad.abs().min()) > 0  # a saturated softmax would have killed these


def test_a_final_log_softmax_is_recognised_and_a_sigmoid_is_taken_off() -> None:
    weight = const("w", np.eye(4, dtype=np.float32) * 3)
    log = interpret(model([node("MatMul", "x w", "a"), node("LogSoftmax", "a", "y")], ("n", 4), [weight]), (4,))
    assert log.output is Output.LOG_PROBABILITIES
    sigmoid = interpret(model([node("MatMul", "x w", "a"), node("Sigmoid", "a", "y")], ("n", 4), [weight]), (4,))
    assert sigmoid.output is Output.LOGITS
    x = torch.rand(2, 4)
    torch.testing.assert_close(sigmoid(x), 3 * x)
    assert any("sigmoid" in note for note in sigmoid.program.notes)


def test_images_in_other_layouts() -> None:
    kernel = np.random.default_rng(0).normal(size=(2, 3, 3, 3)).astype(np.float32)
    nodes = [
        node("Transpose", "x", "t", perm=[0, 3, 1, 2]),
        node("Conv", "t k", "c"),
        node("Flatten", "c", "y"),
    ]
    last = interpret(model(nodes, ("n", 6, 5, 3), [const("k", kernel)]), (6, 5, 3), layout=Layout.CHANNELS_LAST)
    images = torch.rand(2, 3, 6, 5)
    expected = torch.nn.functional.conv2d(images, torch.from_numpy(kernel)).flatten(1)
    torch.testing.assert_close(last(images), expected)
    matrix = np.random.default_rng(0).normal(size=(90, 4)).astype(np.float32)
    flat = interpret(model([node("MatMul", "x w", "y")], ("n", 90), [const("w", matrix)]), (90,), layout=Layout.FLAT)
    torch.testing.assert_close(flat(images), images.flatten(1) @ torch.from_numpy(matrix))


def test_a_graph_written_for_one_batch_size_runs_at_any() -> None:
    rng = np.random.default_rng(0)
    weight = const("w", rng.normal(size=(12, 4)).astype(np.float32))
    free = model(
        [node("Reshape", "x shape", "r"), node("MatMul", "r w", "y")],
        (1, 3, 4),
        [weight, const("shape", np.array([1, 12], np.int64))],
    )
    module = interpret(free, (3, 4))
    assert module.program.fixed_batch is None  # the constant reshape of the batch was rewritten
    x = torch.rand(5, 3, 4)
    torch.testing.assert_close(module(x), x.flatten(1) @ torch.tensor(numpy_helper.to_array(weight)))
    stuck = model(
        [node("Reshape", "x shape", "r"), node("MatMul", "r v", "m"), node("Reshape", "m back", "y")],
        (2, 3, 4),
        [
            const("shape", np.array([6, 4], np.int64)),
            const("v", rng.normal(size=(4, 5)).astype(np.float32)),
            const("back", np.array([2, 15], np.int64)),
        ],
    )
    module = interpret(stuck, (3, 4))
    assert module.program.fixed_batch == 2
    assert any("batches of 2" in note for note in module.program.notes)
    matrix = torch.tensor(numpy_helper.to_array(stuck.graph.initializer[1]))
    for rows in (1, 2, 5):
        torch.testing.assert_close(module(x[:rows]), (x[:rows] @ matrix).flatten(1))


def test_a_gelu_in_pieces_is_one_step() -> None:
    constants = [
        const("root", np.array(1.4142135, np.float32)),
        const("one", np.array(1, np.float32)),
        const("half", np.array(0.5, np.float32)),
        const("w", np.eye(4, dtype=np.float32)),
    ]
    head, erf = [node("MatMul", "x w", "m"), node("Div", "m root", "d")], node("Erf", "d", "e")
    forms = [
        [node("Add", "e one", "s"), node("Mul", "m s", "p"), node("Mul", "p half", "y")],
        [node("Mul", "m half", "h"), node("Add", "e one", "s"), node("Mul", "h s", "y")],
        [node("Add", "e one", "s"), node("Mul", "half s", "p"), node("Mul", "m p", "y")],
    ]
    x = torch.randn(3, 4)
    for tail in forms:
        module = interpret(model([*head, erf, *tail], ("n", 4), constants), (4,), classifier=False)
        assert [step.op for step in module.program.steps] == ["MatMul", "Gelu"]
        torch.testing.assert_close(module(x), torch.nn.functional.gelu(x))
    other = [node("Add", "e one", "s"), node("Mul", "m s", "p"), node("Mul", "p root", "y")]
    module = interpret(model([*head, erf, *other], ("n", 4), constants), (4,), classifier=False)
    assert "Erf" in [step.op for step in module.program.steps]


def test_nothing_is_left_on_another_device_than_the_images() -> None:
    """The meta device stands in for a GPU: an operand left on the CPU would be an error."""
    nodes = [
        node("Gather", "x order", "g", axis=1),
        node("Shape", "g", "s", start=0, end=1),
        node("Squeeze", "s", "b"),
        node("Range", "zero b one", "r"),
        node("Gather", "g r", "h", axis=0),
        node("Shape", "h", "t"),
        node("ConstantOfShape", "t", "z", value=const("v", np.array([2.0], np.float32))),
        node("Mul", "h z", "k"),
        node("Slice", "k last first second back", "l"),
        node("Where", "mask l l", "m"),
        node("Resize", "m  scales", "y", mode="linear"),
    ]
    nodes[-1].input[:] = ["m", "", "scales"]
    integers = {"order": [1, 0], "last": [-1], "first": [-100], "second": [1], "back": [-1]}
    constants = [const(k, np.array(v, np.int64)) for k, v in integers.items()]
    constants += [const("zero", np.array(0, np.int64)), const("one", np.array(1, np.int64))]
    constants += [const("mask", np.array([True, False])), const("scales", np.array([1, 1, 2], np.float32))]
    module = interpret(model(nodes, ("n", 2, 2), constants), (2, 2), classifier=False).to("meta")
    assert module(torch.empty(4, 2, 2, device="meta")).shape == (4, 2, 4)


def test_model_local_functions_are_expanded() -> None:
    proto = model([helper.make_node("Twice", ["x"], ["y"], domain="own")], ("n", 4))
    proto.opset_import.append(helper.make_opsetid("own", 1))
    proto.functions.append(
        helper.make_function("own", "Twice", ["a"], ["b"], [node("Add", "a a", "b")], [helper.make_opsetid("", 17)])
    )
    assert unsupported_operators(proto) == ()
    x = torch.rand(2, 4)
    assert torch.equal(interpret(proto, (4,), classifier=False)(x), 2 * x)


def test_unsupported_operators_are_listed_together_before_anything_runs() -> None:
    nodes = [node("NonZero", "x", "a"), node("Det", "x", "b"), helper.make_node("Mine", ["x"], ["y"], domain="my.own")]
    proto = model(nodes, ("n", 4))
    assert unsupported_operators(proto) == ("Det", "NonZero", "my.own::Mine")
    with pytest.raises(UnsupportedModel, match=r"Det, NonZero, my\.own::Mine"):
        interpret(proto, (4,))


@pytest.mark.parametrize(
    "nodes",
    [
        [node("ConstantOfShape", "huge", "z"), node("Add", "x z", "y")],
        [node("Range", "zero most one", "r"), node("Cast", "r", "c", to=1), node("Add", "x c", "y")],
        [node("Expand", "x wide", "y")],
        [node("Tile", "x many", "y")],
        [node("Expand", "one_float huge", "z"), node("Add", "x z", "y")],
        [node("MatMul", "column row", "z"), node("Add", "x z", "y")],
        [node("Pad", "x pads", "y")],
    ],
    ids=lambda nodes: nodes[0].op_type,
)
def test_a_graph_that_claims_huge_values_is_refused_before_they_are_made(nodes: list[onnx.NodeProto]) -> None:
    constants = [
        const("huge", np.array([1, 10**6, 10**6], np.int64)),
        const("wide", np.array([1, 10**10], np.int64)),
        const("zero", np.array(0, np.int64)),
        const("one", np.array(1, np.int64)),
        const("most", np.array(10**12, np.int64)),
        const("many", np.array([1, 10**12], np.int64)),
        const("one_float", np.ones(1, np.float32)),
        const("column", np.ones((10**5, 1), np.float32)),
        const("row", np.ones((1, 10**5), np.float32)),
        const("pads", np.array([0, 0, 0, 10**12], np.int64)),
    ]
    assert MAX_LIVE_ELEMENTS < 10**10
    with pytest.raises(UnsupportedModel, match=r"size budget|huge"):
        interpret(model(nodes, ("n", 1), constants), (1,), classifier=False)


def test_half_precision_weights_are_widened() -> None:
    weight = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float16)
    proto = model(
        [node("MatMul", "x w", "h"), node("Cast", "h", "y", to=1)],
        ("n", 4),
        [const("w", weight)],
        elem_type=TensorProto.FLOAT16,
    )
    module = interpret(proto, (4,))
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    x = torch.rand(2, 4)
    torch.testing.assert_close(module(x), x @ torch.from_numpy(weight.astype(np.float32)))


def test_rows_of_another_shape_are_refused() -> None:
    module = interpret(one_node("Relu", ("n", 4)), (4,), classifier=False)
    with pytest.raises(ValueError, match=r"rows of shape \(4,\)"):
        module(torch.rand(2, 5))
