"""Writing an interpreted graph's weights back into the ONNX file they came from: same graph, other numbers."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from auditor.targets.onnx_graph import Binding, GraphModule, parse_graph


def write_graph(module: GraphModule, model: onnx.ModelProto, path: Path) -> None:
    """Write `model` with the values that `module` has now.

    Args:
        module: interpreted from `model`, with the parameters its bindings name (norms folded again).
        model: as read, functions inlined; not changed.
        path: where to write.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    old = parse_graph(model).constants
    state = module.state_dict()
    uses = Counter(name for node in copy.graph.node for name in node.input)
    by_value: dict[str, list[tuple[Binding, NDArray[np.generic]]]] = defaultdict(list)
    for binding in module.bindings:
        array = state[binding.parameter].detach().cpu().numpy()
        dtype = old[binding.value].dtype if binding.value in old else np.dtype(np.float32)
        by_value[binding.value].append((binding, (array.T if binding.transposed else array).astype(dtype)))
    initialisers = {tensor.name: tensor for tensor in copy.graph.initializer}
    for value, found in by_value.items():
        first = found[0][1]
        alike = all(np.array_equal(first, array) for _, array in found)
        if value in initialisers and alike and uses[value] == len(found):
            initialisers[value].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(first), value))
            continue
        for binding, array in found:  # a constant shared by accident, or computed from others: give it its own
            name = f"{binding.parameter}__retrained"
            copy.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
            _node(copy, binding.node).input[binding.position] = name
    _prune(copy)
    path.write_bytes(copy.SerializeToString())


def _node(model: onnx.ModelProto, first_output: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.output and node.output[0] == first_output)


def _prune(model: onnx.ModelProto) -> None:
    """Drop nodes and initialisers that no output depends on any more."""
    wanted = {value.name for value in model.graph.output}
    kept = []
    for node in reversed(model.graph.node):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    nodes = list(reversed(kept))
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in wanted]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.initializer[:]
    model.graph.initializer.extend(tensors)
