"""Reading an ONNX file from a stranger: parse without external data, then check everything that could bite."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from auditor.contracts.manifest import InputSpec
from auditor.errors import InvalidInput
from auditor.loading.limits import MAX_NODES, MAX_PARAMETERS, MAX_TENSOR_ELEMENTS
from auditor.loading.problems import Problems
from auditor.targets.onnx_graph import Layout
from auditor.targets.onnx_graph.graph import STANDARD_DOMAINS, Graph, Port, inline_functions, parse_graph

_ACCEPTED_DOMAINS = STANDARD_DOMAINS | {"ai.onnx.ml"}
_FLOATS = frozenset({onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE})
_ONE_FILE = (
    "Save the model as one file: `onnx.save_model(onnx.load('model.onnx'), 'one.onnx', save_as_external_data=False)`, "
    "or export with `external_data=False`."
)
_PLAIN_OPERATORS = (
    "Export the model with operators of the standard ONNX domain only (no onnxruntime-optimised graphs, no custom-op "
    "libraries); quantised models: submit the float model they were made from."
)
_EXPORT_AGAIN = "Export it again, and run `onnx.checker.check_model` on it."
MIN_OPSET, MAX_OPSET = 7, 24


@dataclass(frozen=True)
class OnnxFile:
    """A parsed and checked ONNX file.

    Attributes:
        model: with model-local functions expanded.
        graph: the same as plain values.
        input: how images go in.
        layout: how the graph reads them.
        row_shape: input shape without the batch axis, as the graph reads it.
        output: name of the output with the class scores.
        inferred: facts taken from the file.
        half: weights or input are in half precision.
    """

    model: onnx.ModelProto
    graph: Graph
    input: InputSpec
    layout: Layout
    row_shape: tuple[int, ...]
    output: str
    inferred: dict[str, str]
    half: bool


def parse_onnx(path: Path, problems: Problems) -> onnx.ModelProto | None:
    """Decode the file and check it for safety; None when something was put into `problems`.

    External data is refused here: a submission is one file, so that its hash is the hash of what was audited. Weights
    in the file's own folder were gathered into it before (`external_data.gather_weights`).
    """
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except Exception as error:
        problems.refuse(f"the file is no model format the auditor knows (read as ONNX it says: {_line(error)})")
        return None
    if not model.graph.node or not model.opset_import:
        problems.refuse("the file is no model format the auditor knows (read as ONNX it holds no graph)")
        return None
    if not _all_text(model):
        problems.refuse("names in the ONNX graph are not valid text", _EXPORT_AGAIN)
        return None
    before = bool(problems)
    _check_tensors(model, problems)
    _check_operators(model, problems)
    if problems and not before:
        return None
    try:
        model = inline_functions(model)
        onnx.checker.check_model(model, full_check=False)
    except Exception as error:
        problems.refuse(f"the ONNX graph is not valid: {_line(error)}", _EXPORT_AGAIN)
        return None
    return model


def _all_text(message: Any) -> bool:
    """Whether every text field of a protobuf message is valid Unicode (others come out as bytes)."""
    for field, value in message.ListFields():
        values = value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else [value]
        if field.type == field.TYPE_STRING and any(isinstance(text, bytes) for text in values):
            return False
        if field.type == field.TYPE_MESSAGE and not all(_all_text(inner) for inner in values):
            return False
    return True


def _check_operators(model: onnx.ModelProto, problems: Problems) -> None:
    own = {(function.domain, function.name) for function in model.functions}
    nodes = [node for graph in _graphs(model) for node in graph]
    if len(nodes) > MAX_NODES:
        problems.refuse(f"the graph has {len(nodes)} nodes; the limit is {MAX_NODES}")
    custom = {
        f"{n.domain}::{n.op_type}"
        for n in nodes
        if n.domain not in _ACCEPTED_DOMAINS and (n.domain, n.op_type) not in own
    }
    if custom:
        problems.refuse(
            f"the graph uses operators outside the standard ONNX domain: {', '.join(sorted(custom))}", _PLAIN_OPERATORS
        )
    opset = max((o.version for o in model.opset_import if o.domain in STANDARD_DOMAINS), default=0)
    if not MIN_OPSET <= opset <= MAX_OPSET:
        problems.add(f"the graph is written in opset {opset}; the auditor reads {MIN_OPSET} to {MAX_OPSET}")


def _graphs(model: onnx.ModelProto) -> Iterator[list[onnx.NodeProto]]:
    """Every list of nodes in the model: graph, subgraphs, functions."""
    pending = [list(model.graph.node), *(list(function.node) for function in model.functions)]
    while pending:
        nodes = pending.pop()
        yield nodes
        for node in nodes:
            for attribute in node.attribute:
                pending += [
                    list(g.node) for g in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs)
                ]


def all_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor in the model: weights, attributes, those of subgraphs and functions."""
    yield from model.graph.initializer
    for nodes in _graphs(model):
        for node in nodes:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
                for graph in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                    yield from graph.initializer


def _check_tensors(model: onnx.ModelProto, problems: Problems) -> None:
    total, bad = 0, []
    if model.graph.sparse_initializer:
        problems.refuse("the graph has sparse initialisers", "Store the weights densely.")
    for tensor in all_tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            where = next((e.value for e in tensor.external_data if e.key == "location"), "?")
            problems.refuse(
                f"weights lie outside the file (external data at '{where}'): a submission is one file", _ONE_FILE
            )
            return
        size = math.prod(tensor.dims)
        total += size
        if min(tensor.dims, default=1) < 0 or size > MAX_TENSOR_ELEMENTS:
            problems.refuse(f"tensor '{tensor.name}' claims the shape {list(tensor.dims)}: over the size budget")
            return
        try:
            array = numpy_helper.to_array(tensor)
        except Exception as error:
            problems.refuse(f"tensor '{tensor.name}' cannot be read: {_line(error)}")
            continue
        if array.dtype.kind == "f" and not np.isfinite(array).all() and size > 1:
            bad.append(tensor.name)
    if total > MAX_PARAMETERS:
        problems.refuse(f"the graph holds {total} weights; the limit is {MAX_PARAMETERS}")
    if bad:
        problems.add(f"weights are not finite (NaN or infinity) in {', '.join(bad[:10])}")


def describe_onnx(
    model: onnx.ModelProto, given: InputSpec | None, n_classes: int | None, problems: Problems
) -> OnnxFile | None:
    """Find out how images go in and which output holds the scores; None when something was put into `problems`."""
    graph = parse_graph(model)
    inferred: dict[str, str] = {}
    if len(graph.inputs) != 1:
        names = ", ".join(port.name for port in graph.inputs)
        problems.add(f"the graph has {len(graph.inputs)} inputs ({names}); the auditor needs exactly one, the images")
        return None
    port = graph.inputs[0]
    if port.elem_type not in _FLOATS:
        problems.add(
            f"the input '{port.name}' holds no floating-point numbers (element type {port.elem_type}); export the "
            "model with float32 images"
        )
        return None
    read = _read_input(port, given, problems, inferred)
    output = _pick_output(graph, n_classes, problems, inferred)
    if read is None or output is None:
        return None
    spec, layout, row_shape = read
    half = port.elem_type == onnx.TensorProto.FLOAT16 or any(a.dtype == np.float16 for a in graph.constants.values())
    return OnnxFile(model, graph, spec, layout, row_shape, output, inferred, half)


def _read_input(
    port: Port, given: InputSpec | None, problems: Problems, inferred: dict[str, str]
) -> tuple[InputSpec, Layout, tuple[int, ...]] | None:
    dims = port.dims[1:] if port.dims else None
    if dims is None:
        problems.add(f"the input '{port.name}' has no declared shape; export it with one")
        return None
    if given is None:
        return _infer_input(port, dims, problems, inferred)
    options = [
        ((given.channels, given.height, given.width), Layout.CHANNELS_FIRST),
        ((given.height, given.width, given.channels), Layout.CHANNELS_LAST),
        ((given.channels * given.height * given.width,), Layout.FLAT),
    ]
    if given.channels == 1:
        options.append(((given.height, given.width), Layout.FLAT))
    for shape, layout in options:
        if len(shape) == len(dims) and all(d is None or d == s for d, s in zip(dims, shape, strict=True)):
            if layout is not Layout.CHANNELS_FIRST:
                inferred["layout"] = f"the graph reads images as (batch, {', '.join(map(str, shape))})"
            return given, layout, shape
    declared = ", ".join("any" if d is None else str(d) for d in dims)
    problems.add(
        f"the graph takes rows of shape ({declared}), but the manifest says {given.channels} channels of "
        f"{given.height}x{given.width}"
    )
    return None


def _infer_input(
    port: Port, dims: tuple[int | None, ...], problems: Problems, inferred: dict[str, str]
) -> tuple[InputSpec, Layout, tuple[int, ...]] | None:
    if len(dims) != 3 or any(d is None for d in dims):
        shown = ", ".join("any" if d is None else str(d) for d in dims)
        problems.add(
            f"the input '{port.name}' has rows of shape ({shown}), which does not say the image size: give "
            "`model.input` (channels, height, width) in the manifest"
        )
        return None
    shape = tuple(int(d or 0) for d in dims)
    last = shape[0] > 4 and shape[2] <= 4
    channels, height, width = (shape[2], shape[0], shape[1]) if last else shape
    try:
        spec = InputSpec(channels=channels, height=height, width=width)
    except ValueError:
        problems.add(
            f"the input '{port.name}' has rows of shape {shape}, which are no images of 1 to 4 channels and 8 to 1024 "
            "pixels a side"
        )
        return None
    inferred["input"] = f"{channels}x{height}x{width}, range 0 to 1, no mean or std"
    if last:
        inferred["layout"] = "the graph reads images as (batch, height, width, channels)"
    return spec, Layout.CHANNELS_LAST if last else Layout.CHANNELS_FIRST, shape


def _pick_output(graph: Graph, n_classes: int | None, problems: Problems, inferred: dict[str, str]) -> str | None:
    if len(graph.outputs) == 1:
        return graph.outputs[0].name
    rows = [
        p
        for p in graph.outputs
        if p.dims and len(p.dims) == 2 and (n_classes is None or p.dims[1] in (None, n_classes))
    ]
    if len(rows) == 1:
        inferred["output"] = f"'{rows[0].name}' of {len(graph.outputs)} outputs"
        return rows[0].name
    names = ", ".join(port.name for port in graph.outputs)
    problems.add(
        f"the graph has {len(graph.outputs)} outputs ({names}), and not exactly one of them looks like class scores: "
        "export one output"
    )
    return None


def read_onnx(path: Path, given: InputSpec | None, n_classes: int | None) -> OnnxFile:
    """Parse, check and describe in one go.

    Raises:
        RefusedFile: unsafe, with a recipe.
        InvalidInput: anything else that is wrong, all together.
    """
    problems = Problems()
    model = parse_onnx(path, problems)
    found = describe_onnx(model, given, n_classes, problems) if model is not None else None
    problems.raise_any()
    if found is None:
        raise InvalidInput("the ONNX file could not be described")
    return found


def _line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
