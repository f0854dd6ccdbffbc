"""Reading a ModelProto into plain values: nodes, constants, the one input, the outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, inliner, numpy_helper

Array = NDArray[Any]

STANDARD_DOMAINS = frozenset({"", "ai.onnx"})


@dataclass(frozen=True)
class Node:
    """One operator application.

    Attributes:
        op: operator type, e.g. `Conv`.
        name: the exporter's name; may be empty.
        inputs: value names; an empty name is an omitted optional input.
        outputs: value names; the first one identifies the node.
        attributes: decoded; tensors are arrays, text is str.
        opset: version of the default domain.
    """

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    opset: int

    def get(self, name: str, default: Any = None) -> Any:
        """The attribute `name`, or `default`."""
        return self.attributes.get(name, default)


@dataclass(frozen=True)
class Port:
    """A graph input or output.

    Attributes:
        name: value name.
        elem_type: `onnx.TensorProto` type number.
        dims: sizes; None where symbolic. None as a whole when the rank is unknown.
    """

    name: str
    elem_type: int
    dims: tuple[int | None, ...] | None


@dataclass(frozen=True)
class Graph:
    """A ModelProto as plain values.

    Attributes:
        nodes: in topological order (as the format demands).
        constants: initialisers and Constant nodes by value name.
        initialisers: names of the constants that are initialisers.
        inputs: graph inputs that are not initialisers.
        outputs: graph outputs.
        opset: version of the default domain.
    """

    nodes: tuple[Node, ...]
    constants: dict[str, Array]
    initialisers: frozenset[str]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    opset: int


def inline_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with its model-local functions expanded; the model itself when it has none."""
    return inliner.inline_local_functions(model) if model.functions else model


def parse_graph(model: onnx.ModelProto) -> Graph:
    """Decode `model` (functions already inlined); weights are views of its bytes where possible."""
    opset = max((entry.version for entry in model.opset_import if entry.domain in STANDARD_DOMAINS), default=1)
    constants: dict[str, Array] = {tensor.name: _array(tensor) for tensor in model.graph.initializer}
    initialisers = frozenset(constants)
    nodes = []
    for proto in model.graph.node:
        node = _node(proto, opset)
        if node.op == "Constant" and node.outputs:
            constants[node.outputs[0]] = _constant(node)
        else:
            nodes.append(node)
    return Graph(
        nodes=tuple(nodes),
        constants=constants,
        initialisers=initialisers,
        inputs=tuple(_port(value) for value in model.graph.input if value.name not in initialisers),
        outputs=tuple(_port(value) for value in model.graph.output),
        opset=opset,
    )


def _array(tensor: onnx.TensorProto) -> Array:
    array: Array = numpy_helper.to_array(tensor)
    if array.dtype.kind not in "fiub":  # bfloat16 and the 8-bit floats arrive as ml_dtypes
        array = array.astype(np.float32)
    return array


def _node(proto: onnx.NodeProto, opset: int) -> Node:
    attributes: dict[str, Any] = {}
    for attribute in proto.attribute:
        value = helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            value = value.decode("utf-8", errors="replace")
        elif isinstance(value, onnx.TensorProto):
            value = _array(value)
        attributes[attribute.name] = value
    return Node(proto.op_type, proto.name, tuple(proto.input), tuple(proto.output), attributes, opset)


def _constant(node: Node) -> Array:
    for name, kind in (("value_float", np.float32), ("value_floats", np.float32)):
        if name in node.attributes:
            return np.asarray(node.attributes[name], dtype=kind)
    for name in ("value_int", "value_ints"):
        if name in node.attributes:
            return np.asarray(node.attributes[name], dtype=np.int64)
    value = node.get("value")
    if not isinstance(value, np.ndarray):
        raise ValueError(f"Constant '{node.outputs[0]}' holds no tensor")
    return value


def _port(value: onnx.ValueInfoProto) -> Port:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return Port(value.name, tensor.elem_type, None)
    dims = tuple(d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in tensor.shape.dim)
    return Port(value.name, tensor.elem_type, dims)
