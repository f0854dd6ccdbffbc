"""Tracing a graph's shapes: which values are constants, which depend on shapes alone, which on the images.

Three kinds of value. *Known*: constants and what follows from them, computed once. *Host*: what follows from shapes
(a `Shape` node and the arithmetic on it), computed at a few batch sizes so that it can be written as a line in the
batch size. *Live*: what depends on the input; traced as tensors without storage, so a file that claims a huge tensor is
refused before anything is allocated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from auditor.errors import UnsupportedModel
from auditor.targets.onnx_graph.folding import (
    MAX_LIVE_ELEMENTS,
    Known,
    as_tensor,
    compute,
    is_trained,
    meta,
    sample,
    within_budget,
)
from auditor.targets.onnx_graph.graph import Array, Graph, Node
from auditor.targets.onnx_graph.kernel import Kernel, Layer, Operator, Value
from auditor.targets.onnx_graph.module import KernelLayer, Source
from auditor.targets.onnx_graph.table import OPERATORS

PROBES = (2, 3, 5)
"""Batch sizes at which shapes are traced: two give the line, the third checks it."""
_SHAPE_READERS = frozenset({"Shape", "Size"})


@dataclass(frozen=True)
class Held:
    """A constant that a layer holds; see `Binding`."""

    attribute: str
    value: str
    array: Array
    node: str
    position: int
    transposed: bool = False
    buffer: bool = False


@dataclass
class Record:
    """One node of the program.

    Attributes:
        node: as parsed (a matrix product may have taken in the addition that follows it).
        kernel: what to call, when there is no layer.
        layer: the module on the meta device.
        args: source and value name (or host array) of each argument.
        outputs: value names.
        held: constants the layer holds.
        host: depends on shapes alone.
        placed: a host node that runs with the batch after all.
    """

    node: Node
    kernel: Kernel | None
    layer: nn.Module | None
    args: list[tuple[Source, Any]]
    outputs: tuple[str, ...]
    held: tuple[Held, ...] = ()
    host: bool = False
    placed: bool = False

    @property
    def identity(self) -> str:
        """The node's first output."""
        return self.node.outputs[0]

    @property
    def reads(self) -> list[str]:
        """Names of the live values it reads."""
        return list(dict.fromkeys(key for source, key in self.args if source == Source.SLOT))


@dataclass
class Tracer:
    """Builds records on the first run and replays them on the next.

    Attributes:
        graph: the parsed graph.
        nodes: those needed, in order.
        output: the value to reach.
        row_shape: input shape without the batch axis.
        rewrite_batch: constant reshapes to this leading size are read as "the batch size".
        order: nodes that do not fold into constants, in order, once the first run is done.
        constants: host arrays wanted on the device, by buffer name.
    """

    graph: Graph
    nodes: tuple[Node, ...]
    output: str
    row_shape: tuple[int, ...]
    rewrite_batch: int | None = None
    order: list[Record] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    _known: dict[str, Known] = field(default_factory=dict)
    _seen: dict[str, dict[int, Array]] = field(default_factory=dict)
    _values: dict[str, Any] = field(default_factory=dict)
    _joined: set[int] = field(default_factory=set)

    def host_values(self, name: str) -> dict[int, Array]:
        """A host value by the batch sizes it was traced at."""
        return self._seen[name]

    def run(self, batch: int) -> None:
        """Trace at `batch` rows. Raises UnsupportedModel where a node cannot be interpreted or a shape does not fit."""
        first = not self.order
        self._values = {self.graph.inputs[0].name: torch.empty((batch, *self.row_shape), device="meta")}
        if first:
            self._known = {
                name: Known(array, name, name in self.graph.initialisers)
                for name, array in self.graph.constants.items()
            }
            for index, node in enumerate(self.nodes):
                if index not in self._joined:
                    self._guard(node, batch, lambda index=index, node=node: self._visit(index, node, batch))
        else:
            for record in self.order:
                self._guard(record.node, batch, lambda record=record: self._evaluate(record, batch))
        result = self._values.get(self.output)
        if not isinstance(result, Tensor):
            raise UnsupportedModel(f"output '{self.output}' does not depend on the input")
        if result.ndim == 0 or result.shape[0] != batch:
            raise UnsupportedModel(f"the output has {tuple(result.shape)[:1]} rows for {batch} images")

    def _guard(self, node: Node, batch: int, action: Any) -> None:
        try:
            action()
        except UnsupportedModel:
            raise
        except Exception as error:
            where = node.name or node.outputs[0]
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UnsupportedModel(f"{node.op} '{where}' at {batch} rows: {reason[:200]}") from error

    def _visit(self, index: int, node: Node, batch: int) -> None:
        row = OPERATORS[node.op]
        values = [self._value(name) for name in node.inputs]
        live = any(isinstance(v, Tensor) or _is_trained_over_batch(node, row, i, values) for i, v in enumerate(values))
        if node.op in _SHAPE_READERS or not live:
            self._visit_host(node, row, values, batch)
            return
        node, outputs, origin = self._join_bias(index, node)
        values = [self._value(name) for name in node.inputs]
        record = self._live_record(node, row, values, origin)
        record.outputs = outputs
        self.order.append(record)
        self._evaluate(record, batch)

    def _value(self, name: str) -> Any:
        """A Tensor (live), a Known, an array (host), or None."""
        if not name:
            return None
        if name in self._known:
            return self._known[name]
        if name not in self._values:
            raise UnsupportedModel(f"'{name}' is read before it is made")
        return self._values[name]

    def _visit_host(self, node: Node, row: Operator, values: list[Any], batch: int) -> None:
        reads_shape = node.op in _SHAPE_READERS
        if not reads_shape and all(v is None or isinstance(v, Known) for v in values):
            arrays = [None if v is None else v.array for v in values]
            results = compute(node, row, arrays, row.build(node, [as_tensor(a) for a in arrays]))
            trained = any(v.trained for v in values if v is not None)
            for name, array in zip(node.outputs, results, strict=False):
                self._known[name] = Known(array, name, trained)
            return
        if reads_shape and isinstance(values[0], Known):
            array = compute(node, row, [values[0].array], row.build(node, [None]))[0]
            self._known[node.outputs[0]] = Known(array, node.outputs[0], False)
            return
        kernel = row.build(node, [sample(v) for v in values])
        args = [self._host_ref(name, value) for name, value in zip(node.inputs, values, strict=True)]
        record = Record(node, kernel, None, args, node.outputs, host=True)
        self.order.append(record)
        self._evaluate(record, batch)

    def _host_ref(self, name: str, value: Any) -> tuple[Source, Any]:
        if value is None:
            return Source.FIXED, None
        if isinstance(value, Known):
            return Source.FIXED, value.array
        return (Source.SLOT, name) if isinstance(value, Tensor) else (Source.PER_BATCH, name)

    def _join_bias(self, index: int, node: Node) -> tuple[Node, tuple[str, ...], dict[int, tuple[str, int]]]:
        """A matrix product with a constant matrix takes in the constant vector added to it right after."""
        origin = {position: (node.outputs[0], position) for position in range(len(node.inputs))}
        if node.op != "MatMul" or not isinstance(self._value(node.inputs[1]), Known):
            return node, node.outputs, origin
        matrix = self._value(node.inputs[1]).array
        readers = [i for i, other in enumerate(self.nodes) if node.outputs[0] in other.inputs]
        if matrix.ndim != 2 or len(readers) != 1 or node.outputs[0] == self.output:
            return node, node.outputs, origin
        follower = self.nodes[readers[0]]
        others = [i for i, name in enumerate(follower.inputs) if name != node.outputs[0]]
        if follower.op != "Add" or len(others) != 1 or follower.inputs[others[0]] not in self._known:
            return node, node.outputs, origin
        bias = self._known[follower.inputs[others[0]]]
        if bias.array.shape != (matrix.shape[1],) or bias.array.dtype != matrix.dtype:
            return node, node.outputs, origin
        self._joined.add(readers[0])
        joined = Node(node.op, node.name, (*node.inputs, bias.name), follower.outputs, node.attributes, node.opset)
        return joined, follower.outputs, {**origin, 2: (follower.outputs[0], others[0])}

    def _live_record(self, node: Node, row: Operator, values: list[Any], origin: dict[int, tuple[str, int]]) -> Record:
        samples: list[Value] = [v.array if isinstance(v, Known) else sample(v) for v in values]
        constant = [isinstance(v, Known) for v in values]
        built = row.layer(node, samples, constant) if row.layer else None
        if built is not None:
            return self._layer_record(node, row, values, built, origin)
        kernel = row.build(node, samples)
        trained = [i for i, v in enumerate(values) if is_trained(node, row, i, v)]
        args = [(Source.FIXED, None) if i in trained else self._live_ref(row, node, i, v) for i, v in enumerate(values)]
        if not trained:
            return Record(node, kernel, None, args, node.outputs)
        names = {i: "weight" if n == 0 else f"weight_{n}" for n, i in enumerate(trained)}
        layer = KernelLayer(kernel, names)
        for i, name in names.items():
            layer.register_parameter(name, nn.Parameter(meta(values[i].array)))
        held = tuple(Held(names[i], values[i].name, values[i].array, *origin[i]) for i in trained)
        return Record(node, None, layer, args, node.outputs, held)

    def _layer_record(
        self, node: Node, row: Operator, values: list[Any], built: Layer, origin: dict[int, tuple[str, int]]
    ) -> Record:
        held = []
        for slot in built.slots:
            value: Known = values[slot.position]
            where, position = origin[slot.position]
            held.append(Held(slot.attribute, value.name, value.array, where, position, slot.transposed, slot.buffer))
        inside = {slot.position for slot in built.slots}
        args = [self._live_ref(row, node, i, v) for i, v in enumerate(values) if i not in inside and v is not None]
        return Record(node, None, built.module, args, node.outputs, tuple(held))

    def _live_ref(self, row: Operator, node: Node, position: int, value: Any) -> tuple[Source, Any]:
        name = node.inputs[position]
        if value is None:
            return Source.FIXED, None
        if isinstance(value, Tensor):
            return Source.SLOT, name
        if isinstance(value, Known):
            if position not in row.host:
                return Source.CONSTANT, self.buffer(value.name, value.array)
            return self._reshape_ref(node, value) or (Source.FIXED, value.array)
        return (Source.PER_BATCH if position in row.host else Source.PER_BATCH_TENSOR), name

    def _reshape_ref(self, node: Node, value: Known) -> tuple[Source, Any] | None:
        """Under `rewrite_batch`, a constant reshape of the batch keeps the batch."""
        if self.rewrite_batch is None or node.op != "Reshape" or value.array.size < 1:
            return None
        x = self._values.get(node.inputs[0])
        batch = self._values[self.graph.inputs[0].name].shape[0]
        if int(value.array[0]) != self.rewrite_batch or x is None or x.shape[0] != batch:
            return None
        self._seen[f"{node.outputs[0]}:shape"] = {
            rows: np.concatenate([[rows], value.array[1:]]).astype(np.int64) for rows in PROBES
        }
        return Source.PER_BATCH, f"{node.outputs[0]}:shape"

    def buffer(self, wanted: str, array: Array) -> str:
        """Keep a host array as a buffer of the module; its name there."""
        name = "c_" + "".join(c if c.isalnum() else "_" for c in wanted)
        while name in self.constants and self.constants[name] is not array:
            name += "_"
        self.constants[name] = array
        return name

    def _evaluate(self, record: Record, batch: int) -> None:
        if record.host:
            arrays = [self._host_argument(ref) for ref in record.args]
            if record.kernel is None:
                raise UnsupportedModel(f"{record.node.op} has no kernel")
            results: Sequence[Any] = compute(record.node, OPERATORS[record.node.op], arrays, record.kernel)
            for name, array in zip(record.outputs, results, strict=False):
                self._seen.setdefault(name, {})[batch] = array
        else:
            call: Any = record.layer if record.layer is not None else record.kernel
            result = call(*[self._live_argument(ref, batch) for ref in record.args])
            results = result if isinstance(result, tuple) else (result,)
            for tensor in results:
                within_budget(record.node, tensor.numel(), MAX_LIVE_ELEMENTS)
        self._values.update(zip(record.outputs, results, strict=False))

    def _host_argument(self, ref: tuple[Source, Any]) -> Any:
        source, key = ref
        return key if source == Source.FIXED else self._values[key]

    def _live_argument(self, ref: tuple[Source, Any], batch: int) -> Any:
        source, key = ref
        if source == Source.SLOT:
            return self._values[key]
        if source == Source.CONSTANT:
            return meta(self.constants[key])
        if source == Source.FIXED:
            return key
        array = self._seen[key][batch]
        return array if source == Source.PER_BATCH else meta(array)


def _is_trained_over_batch(node: Node, row: Operator, position: int, values: list[Any]) -> bool:
    """A trained constant repeated over the batch (a class token): not to be computed ahead."""
    changing = any(isinstance(v, np.ndarray) for v in values)
    return changing and is_trained(node, row, position, values[position])
