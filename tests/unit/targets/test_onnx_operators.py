"""Every operator of the table against onnxruntime, in the forms exporters write."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from auditor.errors import UnsupportedModel
from auditor.targets.onnx_graph import interpret
from auditor.targets.onnx_graph.table import OPERATORS
from auditor.targets.ort_session import OrtSession
from auditor.testing.onnx_models import model, one_node

RNG = np.random.default_rng(0)


def f(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def i(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


IMAGE = ("n", 4, 9, 7)
SEQUENCE = ("n", 5, 6)
VECTOR = ("n", 6)


def case(op: str, shape: Any, *constants: Any, **attributes: Any) -> Any:
    text = ",".join(f"{k}={v}" for k, v in attributes.items())
    return pytest.param(op, shape, constants, attributes, id=f"{op}({text})")


UNARY = [
    "Relu", "Sigmoid", "HardSwish", "Tanh", "Softplus", "Softsign", "Exp", "Abs", "Neg", "Sign", "Floor", "Ceil",
    "Round", "Sin", "Cos", "Tan", "Atan", "Erf", "Identity", "Sqrt", "Log", "Reciprocal", "Dropout",
]  # fmt: skip

CASES = [
    *[case(op, VECTOR) for op in UNARY],
    case("Mish", VECTOR, opset=18),
    case("LeakyRelu", VECTOR, alpha=0.2),
    case("Elu", VECTOR, alpha=0.7),
    case("Celu", VECTOR, alpha=0.7),
    case("Selu", VECTOR),
    case("ThresholdedRelu", VECTOR, alpha=0.3),
    case("HardSigmoid", VECTOR),
    case("HardSigmoid", VECTOR, alpha=1 / 6, beta=0.5),
    case("PRelu", IMAGE, f(4, 1, 1)),
    case("Gelu", VECTOR, opset=20),
    case("Gelu", VECTOR, opset=20, approximate="tanh"),
    case("Softmax", SEQUENCE, axis=1),
    case("Softmax", SEQUENCE, axis=1, opset=11),
    case("Softmax", SEQUENCE, axis=-1, opset=11),
    case("LogSoftmax", SEQUENCE, axis=-1),
    case("Clip", VECTOR, np.float32(-0.5), np.float32(0.5)),
    case("Clip", VECTOR, None, np.float32(0.5)),
    case("Clip", VECTOR, min=-0.3, max=0.2, opset=9),
    case("Pow", VECTOR, np.float32(2)),
    case("Pow", VECTOR, np.float32(3)),
    *[case(op, VECTOR, f(6)) for op in ("Add", "Sub", "Mul", "Div", "Min", "Max", "Sum", "Mean")],
    case("Sum", VECTOR, f(6), f(1)),
    case("Mod", VECTOR, f(6), fmod=1),
    case("Gemm", VECTOR, f(6, 3), f(3)),
    case("Gemm", VECTOR, f(3, 6), f(3), transB=1),
    case("Gemm", VECTOR, f(3, 6), transB=1, alpha=0.5),
    case("Gemm", VECTOR, f(3, 6), f(1, 3), transB=1, beta=2.0),
    case("MatMul", SEQUENCE, f(6, 4)),
    case("MatMul", SEQUENCE, f(1, 6, 4)),
    case("Einsum", SEQUENCE, f(6, 4), equation="bij,jk->bik"),
    case("Conv", IMAGE, f(8, 4, 3, 3), f(8), pads=[1, 1, 1, 1]),
    case("Conv", IMAGE, f(8, 4, 3, 3), strides=[2, 2], pads=[0, 1, 2, 1]),
    case("Conv", IMAGE, f(8, 2, 3, 2), f(8), group=2, dilations=[2, 1]),
    case("Conv", IMAGE, f(4, 1, 3, 3), group=4, auto_pad="SAME_UPPER", strides=[2, 2]),
    case("Conv", IMAGE, f(4, 4, 2, 2), auto_pad="SAME_LOWER"),
    case("Conv", IMAGE, f(4, 4, 2, 2), auto_pad="VALID"),
    case("Conv", SEQUENCE, f(3, 5, 3), f(3), pads=[1, 1]),
    case("ConvTranspose", IMAGE, f(4, 3, 3, 3), f(3), strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]),
    case("ConvTranspose", IMAGE, f(4, 2, 2, 2), group=2, strides=[2, 2]),
    case("ConvTranspose", IMAGE, f(4, 3, 4, 4), f(3), strides=[2, 2], pads=[1, 0, 2, 1]),
    case("ConvTranspose", IMAGE, f(4, 3, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2]),
    case("ConvTranspose", IMAGE, f(4, 3, 3, 3), auto_pad="SAME_LOWER", strides=[2, 2]),
    case("ConvTranspose", IMAGE, f(4, 3, 3, 3), output_shape=[17, 13], strides=[2, 2]),
    case("MaxPool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    case("MaxPool", IMAGE, kernel_shape=[3, 2], pads=[0, 1, 1, 0]),
    case("MaxPool", IMAGE, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    case("MaxPool", IMAGE, kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_UPPER"),
    case("MaxPool", IMAGE, kernel_shape=[2, 2], dilations=[2, 2]),
    case("AveragePool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    case("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    case("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[0, 1, 2, 0]),
    case("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[0, 1, 2, 0], count_include_pad=1),
    case("AveragePool", IMAGE, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    case("LpPool", IMAGE, kernel_shape=[2, 2], p=2, pads=[1, 0, 0, 1]),
    case("GlobalAveragePool", IMAGE),
    case("GlobalMaxPool", IMAGE),
    case("BatchNormalization", IMAGE, f(4), f(4), f(4), np.abs(f(4)) + 0.5, epsilon=1e-3),
    case("BatchNormalization", VECTOR, f(6), f(6), f(6), np.abs(f(6)) + 0.5),
    case("InstanceNormalization", IMAGE, f(4), f(4)),
    case("LayerNormalization", SEQUENCE, f(6), f(6)),
    case("LayerNormalization", SEQUENCE, f(5, 6), axis=1),
    case("GroupNormalization", IMAGE, f(2), f(2), num_groups=2, opset=18),
    case("GroupNormalization", IMAGE, f(4), f(4), num_groups=2, opset=21),
    case("LRN", IMAGE, size=3, alpha=0.1),
    case("LpNormalization", VECTOR, axis=1, p=2),
    case("LpNormalization", VECTOR, axis=1, p=1),
    case("Reshape", IMAGE, i(0, -1)),
    case("Reshape", IMAGE, i(-1, 2, 2, 63)),
    case("Flatten", IMAGE),
    case("Flatten", IMAGE, axis=-3),
    case("Transpose", IMAGE, perm=[0, 2, 3, 1]),
    case("Squeeze", ("n", 1, 6), i(1)),
    case("Squeeze", ("n", 1, 6), axes=[1], opset=11),
    case("Unsqueeze", VECTOR, i(1, -1)),
    case("Unsqueeze", VECTOR, axes=[2, 1], opset=11),
    case("Expand", ("n", 1, 6), i(1, 5, 6)),
    case("Tile", SEQUENCE, i(1, 2, 3)),
    case("DepthToSpace", ("n", 8, 3, 2), blocksize=2),
    case("DepthToSpace", ("n", 8, 3, 2), blocksize=2, mode="CRD"),
    case("SpaceToDepth", ("n", 2, 4, 6), blocksize=2),
    case("Slice", IMAGE, i(1, 0), i(7, 2**62), i(2, 3), i(2, 1)),
    case("Slice", IMAGE, i(-1), i(-(2**62)), i(3), i(-2)),
    case("Slice", IMAGE, starts=[1], ends=[-1], axes=[2], opset=9),
    case("Gather", SEQUENCE, i(3, 0, -1), axis=1),
    case("Gather", SEQUENCE, np.array(2, dtype=np.int64), axis=1),
    case("Trilu", SEQUENCE, np.array(1, dtype=np.int64), upper=0),
    case("CumSum", SEQUENCE, np.array(1, dtype=np.int64)),
    *[
        case(op, SEQUENCE, axes=[1], keepdims=keep)
        for keep in (0, 1)
        for op in ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare")
    ],
    case("ReduceMean", SEQUENCE, i(1, 2), opset=18),
    case("ReduceLogSumExp", SEQUENCE, axes=[2]),
    case("ReduceSum", SEQUENCE, i(-1), keepdims=0),
    case("ReduceSum", SEQUENCE, axes=[1], opset=11),
    case("ReduceSum", SEQUENCE, noop_with_empty_axes=1),
    case("Pad", IMAGE, i(0, 0, 1, 2, 0, 0, 0, 1), np.float32(0.5)),
    case("Pad", IMAGE, i(0, 0, 2, 1, 0, 0, 1, 2), mode="reflect"),
    case("Pad", IMAGE, i(0, 0, 2, 1, 0, 0, 1, 2), mode="edge"),
    case("Pad", IMAGE, i(1, 2, 0, 1), None, i(2, 3), opset=18),
    case("Pad", IMAGE, pads=[0, 0, 1, 1, 0, 0, 1, 1], value=0.25, opset=10),
    *[
        case("Resize", IMAGE, None, np.array([1, 1, *scale], np.float32), mode=mode, coordinate_transformation_mode=t)
        for mode, t, scale in [
            ("nearest", "asymmetric", (2, 2)),
            ("nearest", "half_pixel", (1.5, 0.7)),
            ("linear", "half_pixel", (2, 1.4)),
            ("linear", "align_corners", (1.7, 2)),
            ("linear", "pytorch_half_pixel", (0.5, 0.5)),
            ("linear", "asymmetric", (2, 3)),
            ("cubic", "half_pixel", (2, 1.3)),
        ]
    ],
    case("Resize", IMAGE, None, None, np.array([2, 4, 5, 11], np.int64), mode="linear", fixed=2),
    case("Resize", IMAGE, None, None, i(5, 11), mode="nearest", axes=[2, 3], opset=18),
    case("Resize", IMAGE, None, np.array([1, 1, 0.5, 0.5], np.float32), mode="linear", antialias=1, opset=18),
    case("Upsample", IMAGE, np.array([1, 1, 2, 3], np.float32), mode="nearest", opset=9),
]


def ours_and_theirs(proto: onnx.ModelProto, x: np.ndarray) -> tuple[torch.Tensor, np.ndarray, torch.Tensor]:
    module = interpret(proto, x.shape[1:], classifier=False)
    inputs = torch.from_numpy(x).requires_grad_()
    ours = module(inputs)
    theirs = OrtSession(proto.SerializeToString()).run(x)
    return ours, theirs, inputs


@pytest.mark.parametrize(("op", "shape", "constants", "attributes"), CASES)
def test_an_operator_agrees_with_onnxruntime(op: str, shape: Any, constants: Any, attributes: Any) -> None:
    attributes = dict(attributes)
    opset, rows = attributes.pop("opset", 17), attributes.pop("fixed", 3)
    if rows == 2:
        shape = (2, *shape[1:])
    proto = one_node(op, shape, constants, opset=opset, **attributes)
    x = RNG.normal(size=(rows, *shape[1:])).astype(np.float32)
    if op in ("Sqrt", "Log", "Reciprocal"):
        x = np.abs(x) + 0.1
    ours, theirs, inputs = ours_and_theirs(proto, x)
    assert np.allclose(ours.detach().numpy().reshape(rows, -1), theirs, atol=2e-5, rtol=1e-5)
    if op not in ("Sign", "Floor", "Ceil", "Round"):
        ours.square().sum().backward()
        assert inputs.grad is not None
        assert torch.isfinite(inputs.grad).all()
        assert inputs.grad.abs().sum() > 0


def graph_case(
    name: str, shape: Any, nodes: Any, constants: dict[str, np.ndarray] | None = None, opset: int = 17
) -> Any:
    return pytest.param(shape, nodes, constants or {}, opset, id=name)


def n(op: str, inputs: str, outputs: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


GRAPHS = [
    graph_case(
        "comparisons-and-where",
        VECTOR,
        [
            n("Greater", "x zero", "a"),
            n("Less", "x one", "b"),
            n("And", "a b", "c"),
            n("GreaterOrEqual", "x one", "d"),
            n("Or", "c d", "e"),
            n("LessOrEqual", "x zero", "g"),
            n("Xor", "e g", "h"),
            n("Not", "h", "k"),
            n("Equal", "x x", "l"),
            n("And", "k l", "m"),
            n("Or", "m c", "o"),
            n("Where", "o x zero"),
        ],
        {"zero": np.float32(0), "one": np.float32(1)},
    ),
    graph_case("casts", VECTOR, [n("Cast", "x", "a", to=6), n("Cast", "a", "b", to=1), n("Mul", "x b")]),
    graph_case("cast-like", VECTOR, [n("CastLike", "x c", "a"), n("Add", "a c")], {"c": f(6)}, 19),
    graph_case("is-nan", VECTOR, [n("IsNaN", "x", "a"), n("Where", "a c x")], {"c": f(6)}),
    graph_case(
        "split-and-join",
        SEQUENCE,
        [n("Split", "x sizes", "a b", axis=2), n("Concat", "b a x", axis=2)],
        {"sizes": i(2, 4)},
    ),
    graph_case("split-even", SEQUENCE, [n("Split", "x", "a b c", axis=2), n("Add", "a c")], opset=13),
    graph_case(
        "split-uneven", SEQUENCE, [n("Split", "x", "a b", axis=1, num_outputs=2), n("Concat", "b a", axis=1)], opset=18
    ),
    graph_case(
        "split-attribute",
        SEQUENCE,
        [n("Split", "x", "a b", axis=1, split=[2, 3]), n("Concat", "b a", axis=1)],
        opset=11,
    ),
    graph_case(
        "reshape-by-shape",
        IMAGE,
        [
            n("Shape", "x", "s"),
            n("Gather", "s zero", "b"),
            n("Unsqueeze", "b axes", "b1"),
            n("Concat", "b1 rest", "t", axis=0),
            n("Reshape", "x t"),
        ],
        {"zero": np.array(0, np.int64), "axes": i(0), "rest": i(-1, 7)},
    ),
    graph_case(
        "merge-the-batch-and-part-again",
        IMAGE,
        [
            n("Shape", "x", "s", start=0, end=1),
            n("Mul", "s two", "m"),
            n("Concat", "m rest", "t", axis=0),
            n("Reshape", "x t", "r"),
            n("Softmax", "r", "p", axis=1),
            n("Concat", "s back", "u", axis=0),
            n("Reshape", "p u"),
        ],
        {"two": i(2), "rest": i(126), "back": i(252)},
    ),
    graph_case(
        "class-token",
        SEQUENCE,
        [
            n("Shape", "x", "s", start=0, end=1),
            n("Concat", "s rest", "t", axis=0),
            n("Expand", "token t", "e"),
            n("Concat", "e x", axis=1),
        ],
        {"rest": i(1, 6), "token": f(1, 1, 6)},
    ),
    graph_case(
        "mask-of-the-batch-shape",
        SEQUENCE,
        [
            n("Shape", "x", "s"),
            n("ConstantOfShape", "s", "z", value=numpy_helper.from_array(np.array([2.0], np.float32))),
            n("Mul", "x z"),
        ],
    ),
    graph_case(
        "rows-picked-by-range",
        SEQUENCE,
        [
            n("Shape", "x", "s", start=0, end=1),
            n("Squeeze", "s", "b"),
            n("Range", "zero b one", "r"),
            n("Gather", "x r", axis=0),
        ],
        {"zero": np.array(0, np.int64), "one": np.array(1, np.int64)},
    ),
    graph_case(
        "pieces-of-a-layer-norm",
        SEQUENCE,
        [
            n("ReduceMean", "x", "m", axes=[-1]),
            n("Sub", "x m", "d"),
            n("Pow", "d two", "q"),
            n("ReduceMean", "q", "v", axes=[-1]),
            n("Add", "v eps", "w"),
            n("Sqrt", "w", "t"),
            n("Div", "d t", "u"),
            n("Mul", "u scale", "k"),
            n("Add", "k shift"),
        ],
        {"two": np.float32(2), "eps": np.float32(1e-5), "scale": f(6), "shift": f(6)},
    ),
    graph_case(
        "attention",
        SEQUENCE,
        [
            n("MatMul", "x w", "q"),
            n("Transpose", "x", "k", perm=[0, 2, 1]),
            n("MatMul", "q k", "s"),
            n("Softmax", "s", "a", axis=-1),
            n("MatMul", "a x"),
        ],
        {"w": f(6, 6)},
    ),
    graph_case(
        "einsum-of-two-values",
        SEQUENCE,
        [n("MatMul", "x w", "a"), n("Einsum", "a x", equation="bij,bkj->bik")],
        {"w": f(6, 6)},
    ),
    graph_case("linear-with-bias", SEQUENCE, [n("MatMul", "x w", "a"), n("Add", "b a")], {"w": f(6, 4), "b": f(4)}),
    graph_case("top-k", SEQUENCE, [n("TopK", "x k", "v ix", axis=2), n("Identity", "v")], {"k": i(3)}),
    graph_case(
        "gather-nd",
        ("n", 5),
        [n("Transpose", "x", "t", perm=[1, 0]), n("GatherND", "t ix", "g"), n("Transpose", "g", perm=[1, 0])],
        {"ix": np.array([[3], [1]], np.int64)},
    ),
    graph_case(
        "scatter-nd",
        ("n", 5),
        [
            n("Transpose", "x", "t", perm=[1, 0]),
            n("Slice", "t zero one zero", "u"),
            n("ScatterND", "t ix u", "g"),
            n("Transpose", "g", perm=[1, 0]),
        ],
        {"ix": np.array([[3]], np.int64), "zero": i(0), "one": i(1)},
    ),
    graph_case(
        "one-hot",
        ("n", 5),
        [n("ArgMax", "x", "a", axis=1, keepdims=0), n("OneHot", "a depth values", "h"), n("Mul", "x h")],
        {"depth": np.array(5, np.int64), "values": f(2)},
    ),
    graph_case("arg-min", ("n", 5), [n("ArgMin", "x", "a", axis=1, keepdims=1), n("GatherElements", "x a", axis=1)]),
    graph_case("mean-variance", IMAGE, [n("MeanVarianceNormalization", "x", axes=[2, 3])]),
    graph_case("log-sum", SEQUENCE, [n("Abs", "x", "a"), n("ReduceLogSum", "a", axes=[1])]),
    graph_case("size", SEQUENCE, [n("Size", "x", "s"), n("Cast", "s", "c", to=1), n("Div", "x c")]),
    graph_case(
        "scatter-elements",
        ("n", 3),
        [
            n("ArgMax", "x", "a", axis=1, keepdims=1),
            n("GatherElements", "x a", "g", axis=1),
            n("ScatterElements", "x a g", "e", axis=1),
            n("Mul", "e x"),
        ],
    ),
    graph_case(
        "grid-sample",
        ("n", 3, 3, 2),
        [n("Transpose", "x", "t", perm=[0, 3, 1, 2]), n("Tanh", "x", "g"), n("GridSample", "t g", align_corners=1)],
        opset=16,
    ),
]


@pytest.mark.parametrize(("shape", "nodes", "constants", "opset"), GRAPHS)
def test_a_small_graph_agrees_with_onnxruntime(shape: Any, nodes: Any, constants: Any, opset: int) -> None:
    proto = model(nodes, shape, [numpy_helper.from_array(a, k) for k, a in constants.items()], opset=opset)
    for rows in (1, 4):
        x = RNG.normal(size=(rows, *shape[1:])).astype(np.float32)
        ours, theirs, inputs = ours_and_theirs(proto, x)
        assert np.allclose(ours.detach().numpy().reshape(rows, -1), theirs, atol=2e-5, rtol=1e-5)
        ours.square().sum().backward()
        assert inputs.grad is not None
        assert torch.isfinite(inputs.grad).all()


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("Conv", {"group": 4, "pads": [1, 1, 1, 1]}),
        ("Conv", {"group": 2, "strides": [2, 2]}),
        ("ConvTranspose", {"group": 2, "strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ("ConvTranspose", {"group": 4, "strides": [2, 2], "output_padding": [1, 1]}),
    ],
)
def test_a_kernel_that_the_graph_computes_from_its_input(op: str, attributes: Any) -> None:
    """As a fused modulated convolution: one group per picture and channel, so written for one batch size."""
    groups = attributes["group"]
    kernels = (4, 4 // groups, 3, 3) if op == "Conv" else (4, 2, 3, 3)
    nodes = [
        n("ReduceMean", "x", "m", axes=[0, 2, 3], keepdims=1),
        n("Reshape", "m four", "s"),
        n("Mul", "weight s", "w"),
        n("Mul", "w w", "q"),
        n("ReduceSum", "q axes", "r", keepdims=1),
        n("Sqrt", "r", "d"),
        n("Div", "w d", "k"),
        n(op, "x k bias", **attributes),
    ]
    constants = {
        "weight": f(*kernels),
        "four": i(4, 1, 1, 1),
        "axes": i(1, 2, 3),
        "bias": f(4 if op == "Conv" else 2 * groups),
    }
    shape = (1, 4, 9, 7)
    proto = model(nodes, shape, [numpy_helper.from_array(a, k) for k, a in constants.items()])
    ours, theirs, inputs = ours_and_theirs(proto, RNG.normal(size=shape).astype(np.float32))
    assert np.allclose(ours.detach().numpy().reshape(1, -1), theirs, atol=2e-5, rtol=1e-5)
    ours.square().sum().backward()
    assert inputs.grad is not None
    assert float(inputs.grad.abs().sum()) > 0


def test_every_operator_of_the_table_is_tested_here_or_needs_a_newer_onnxruntime() -> None:
    tested = {param.values[0] for param in CASES} | {node.op_type for param in GRAPHS for node in param.values[1]}
    assert set(OPERATORS) - tested == {"RMSNormalization", "Swish"}


@pytest.mark.parametrize(
    ("op", "shape", "constants", "attributes"),
    [
        case("MaxPool", IMAGE, kernel_shape=[2, 2], n_outputs=2),
        case("AveragePool", IMAGE, kernel_shape=[2, 2], dilations=[2, 2], opset=19),
        case("CumSum", SEQUENCE, np.array(1, dtype=np.int64), reverse=1),
        case("Conv", IMAGE, f(8, 4, 3, 3), pads=[9999, 1, 1, 1]),
        case("Resize", IMAGE, None, np.array([1, 1, 9999, 1], np.float32)),
        case("Cast", VECTOR, to=14),
    ],
)
def test_a_form_that_cannot_be_interpreted_is_named(op: str, shape: Any, constants: Any, attributes: Any) -> None:
    proto = one_node(op, shape, constants, **attributes)
    with pytest.raises(UnsupportedModel, match=op):
        interpret(proto, shape[1:], classifier=False)
