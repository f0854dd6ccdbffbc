"""The inputs of a generator's file: which are the latent, which are fed something else; packed into one row of numbers.

Everything per picture that a file reads is laid out in one row (B, n), and the graph is rewritten to take that row and
cut its inputs from it. So the interpreter and onnxruntime both see a graph with a single input, whatever was exported.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn
from torch.nn.functional import one_hot

from auditor.contracts.manifest import GeneratorInput
from auditor.loading.problems import Problems
from auditor.targets.onnx_graph.graph import Port, parse_graph

MAX_LATENT = 65536
"""Most values of a latent, all inputs together."""
_PACKED = "auditor_row"
_FLOATS = frozenset({onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE})
_INTEGERS = frozenset({onnx.TensorProto.INT64, onnx.TensorProto.INT32})


@dataclass(frozen=True)
class Field:
    """One input of the file as a range of the row.

    Attributes:
        port: as the file declares it; its first axis is the batch.
        given: what it is fed.
        shape: of one picture's share.
    """

    port: Port
    given: GeneratorInput
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Numbers in the row."""
        return math.prod(self.shape)

    @property
    def is_latent(self) -> bool:
        """Whether attacks may change it."""
        return self.given.kind in ("normal", "uniform")

    @property
    def n_classes(self) -> int:
        """Classes that a `labels` input tells apart; 0 where neither file nor manifest says it."""
        if self.given.kind != "labels":
            return 0
        return self.size if self.port.elem_type in _FLOATS else self.given.n_classes or 0


class Feed(nn.Module):
    """Latents ~ N(0, I), and classes where one of the fields is `labels`, to rows of numbers.

    Args:
        fields: in the order of the row.

    Attributes:
        latent_dim: coordinates of the latent.
        n_classes: of the `labels` field, else 0.
    """

    def __init__(self, fields: Sequence[Field]) -> None:
        super().__init__()
        self._fields = tuple(fields)
        self.latent_dim = sum(field.size for field in fields if field.is_latent)
        self.n_classes = max((field.n_classes for field in fields), default=0)
        for index, field in enumerate(fields):
            if field.given.kind in ("constant", "noise"):
                values = torch.from_numpy(fixed_value(field.port.name, field.given, field.shape).astype(np.float32))
                self.register_buffer(f"value_{index}", values.reshape(1, -1))

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """(B, latent_dim), and (B,) int64 where there are classes, to (B, n)."""
        parts: list[Tensor] = []
        start = 0
        for index, field in enumerate(self._fields):
            if field.is_latent:
                share = latents[:, start : start + field.size]
                start += field.size
                parts.append(share if field.given.kind == "normal" else _uniform(share, field.given))
            elif field.given.kind == "labels":
                parts.append(_classes(field, labels).to(latents))
            else:
                parts.append(self.get_buffer(f"value_{index}").expand(len(latents), -1))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _uniform(normal: Tensor, given: GeneratorInput) -> Tensor:
    """N(0, 1) to U(low, high), through the distribution function."""
    share: Tensor = torch.special.ndtr(normal)
    return given.low + (given.high - given.low) * share


def _classes(field: Field, labels: Tensor | None) -> Tensor:
    """(B, K) one-hot, or (B, 1) class numbers."""
    if labels is None:
        raise ValueError("the generator draws a class at a time and was not told which")
    return one_hot(labels.long(), field.size) if field.port.elem_type in _FLOATS else labels[:, None]


def fixed_value(name: str, given: GeneratorInput, shape: tuple[int, ...]) -> np.ndarray:
    """What a `constant` or `noise` input is fed; the same draw every time."""
    if given.kind == "noise":
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
        noise: np.ndarray = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).numpy()
        return noise
    value = np.asarray(given.value)
    return value.reshape(shape) if value.ndim else np.full(shape, value)


@dataclass(frozen=True)
class PackedGenerator:
    """A generator's file that takes one row of numbers per picture.

    Attributes:
        model: rewritten; one input (B, n) of floats, or the submitted one where it has a single latent input.
        row_shape: of the rewritten input, without the batch axis.
        fields: what the row is made of; those the manifest does not name come first.
    """

    model: onnx.ModelProto
    row_shape: tuple[int, ...]
    fields: tuple[Field, ...]


def pack(
    model: onnx.ModelProto, inputs: Mapping[str, GeneratorInput], n_classes: int, problems: Problems
) -> PackedGenerator | None:
    """Give `model`, in place, one input; None when something was put into `problems`.

    Args:
        model: parsed and checked.
        inputs: from the manifest, by name; names of no input are left alone. An input it does not name is `normal`.
        n_classes: of the target.
        problems: takes everything that does not fit.
    """
    ports = parse_graph(model).inputs
    batch = next((port.dims[0] for port in ports if port.dims and len(port.dims) > 1), None)
    fields, fixed, before = [], {}, len(problems)
    for port in ports:
        given = inputs.get(port.name, GeneratorInput())
        dims = port.dims or ()
        # (1,) in a file for one batch size is a number such as a truncation, unless it is said to be a class
        per_picture = bool(dims) and dims[0] == batch and (len(dims) > 1 or batch is None or given.kind == "labels")
        field = Field(port, given, _sizes(dims[1:] if per_picture else dims))
        undeclared = port.name not in inputs and len(ports) > 1
        problem = _problem(field, per_picture, n_classes, undeclared=undeclared)
        if problem:
            problems.add(f"the generator's input '{port.name}' {problem}")
        elif per_picture:
            fields.append(field)
        else:
            fixed[port.name] = fixed_value(port.name, given, field.shape)
    fields.sort(key=lambda field: field.port.name in inputs)
    latent = sum(field.size for field in fields if field.is_latent)
    if len(problems) == before and latent == 0:
        problems.add("the generator has no latent input")
    if latent > MAX_LATENT:
        problems.add(f"the generator's latent has {latent} values; the limit is {MAX_LATENT}")
    if len(problems) > before:
        return None
    if len(ports) == 1:
        return PackedGenerator(model, fields[0].shape, tuple(fields))
    _rewrite(model, fields, fixed)
    return PackedGenerator(model, (sum(field.size for field in fields),), tuple(fields))


def _sizes(dims: Sequence[int | None]) -> tuple[int, ...]:
    return tuple(int(d or 0) for d in dims)


def _problem(field: Field, per_picture: bool, n_classes: int, *, undeclared: bool) -> str:
    """Why this input cannot be fed what it is given; empty when it can."""
    port, kind = field.port, field.given.kind
    if port.elem_type not in _FLOATS | _INTEGERS:
        return f"holds neither floats nor integers (element type {port.elem_type})"
    if port.dims is None or any(d is None for d in port.dims[1:]):
        return "has no fixed size; export it with one, for example (batch, 128)"
    if kind == "constant":
        return _constant_problem(field)
    if kind == "labels" and per_picture:
        return _label_problem(field, n_classes)
    if port.elem_type in _INTEGERS:
        return "holds integers: say in `data.generator.inputs` whether it is `labels` or a `constant`"
    if not per_picture and kind != "noise":
        return f"has no batch axis, so it cannot be `{kind}`: give it a constant in `data.generator.inputs`"
    if undeclared and field.shape == (n_classes,):
        return (
            f"has {n_classes} values per picture, as many as the model has classes: say in `data.generator.inputs` "
            "whether it is `labels` (one-hot) or `normal`"
        )
    return ""


def _constant_problem(field: Field) -> str:
    value = np.asarray(field.given.value)
    if value.ndim and value.size != field.size:
        return f"holds {field.size} values, but `value` has {value.size}"
    if field.port.elem_type in _INTEGERS and bool((value != np.round(value)).any()):
        return "holds integers, but `value` is none"
    return ""


def _label_problem(field: Field, n_classes: int) -> str:
    if field.port.elem_type in _INTEGERS and field.size != 1:
        return f"holds {field.size} integers per picture; a class number is one"
    if field.n_classes == 0:
        return "takes class numbers: say how many classes it knows (`n_classes`)"
    if field.n_classes != n_classes:
        return (
            f"tells {field.n_classes} classes apart, but the model has {n_classes}: a generator draws the classes of "
            "the model only when it was made for them; else give this input a constant"
        )
    return ""


def _rewrite(model: onnx.ModelProto, fields: Sequence[Field], fixed: Mapping[str, np.ndarray]) -> None:
    """Replace the inputs by one: `Gather` takes each field's columns, `Reshape` and `Cast` make them what was read."""
    graph, nodes, start = model.graph, [], 0
    types = {port.name: port.type.tensor_type.elem_type for port in graph.input}
    for name, value in fixed.items():
        value = value.astype(helper.tensor_dtype_to_np_dtype(types[name]))
        graph.initializer.append(numpy_helper.from_array(value, name))
    for field in fields:
        name, mark = field.port.name, f"{_PACKED}_{start}"
        columns, shape = np.arange(start, start + field.size), np.array([-1, *field.shape])
        graph.initializer.append(numpy_helper.from_array(columns.astype(np.int64), f"{mark}_columns"))
        graph.initializer.append(numpy_helper.from_array(shape.astype(np.int64), f"{mark}_shape"))
        plain = field.port.elem_type == onnx.TensorProto.FLOAT
        nodes += [
            helper.make_node("Gather", [_PACKED, f"{mark}_columns"], [f"{mark}_flat"], axis=1),
            helper.make_node("Reshape", [f"{mark}_flat", f"{mark}_shape"], [name if plain else f"{mark}_shaped"]),
        ]
        if not plain:
            nodes.append(helper.make_node("Cast", [f"{mark}_shaped"], [name], to=field.port.elem_type))
        start += field.size
    batch = next((field.port.dims[0] for field in fields if field.port.dims), None)
    initialised = [port for port in graph.input if port.name not in {f.port.name for f in fields} | set(fixed)]
    row = helper.make_tensor_value_info(_PACKED, onnx.TensorProto.FLOAT, [batch or "batch", start])
    nodes += list(graph.node)
    del graph.input[:], graph.node[:]
    graph.input.extend([row, *initialised])
    graph.node.extend(nodes)
