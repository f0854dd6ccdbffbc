"""Computing constants and host values ahead, within a size budget: a dry run without storage comes first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from auditor.errors import UnsupportedModel
from auditor.targets.onnx_graph.graph import Array, Node
from auditor.targets.onnx_graph.kernel import Kernel, Operator, Value, ints, scalar

MAX_LIVE_ELEMENTS = 2**28
"""Largest intermediate value at a handful of rows (1 GiB in float32)."""
MAX_KNOWN_ELEMENTS = 2**28
"""Largest constant that is computed."""

_TRAINED_OPERANDS = frozenset({"Add", "Mul", "Expand", "Concat"})
"""Where an initialiser of several floats outside a weight slot is a trained parameter: position embeddings, class
tokens, layer scales, the affine part of a norm that was exported in pieces. Operands of Sub and Div are statistics of
the input."""


@dataclass(frozen=True)
class Known:
    """A constant.

    Attributes:
        array: its value.
        name: value name in the graph.
        trained: it is, or was computed from, an initialiser.
    """

    array: Array
    name: str
    trained: bool


def is_trained(node: Node, row: Operator, position: int, value: Any) -> bool:
    """Whether this input of the node is a trained parameter."""
    if not isinstance(value, Known) or value.array.dtype.kind != "f" or position in row.host:
        return False
    return position in row.weights or (node.op in _TRAINED_OPERANDS and value.trained and value.array.size > 1)


def compute(node: Node, row: Operator, arrays: Sequence[Any], kernel: Kernel) -> list[Array]:
    """Run a kernel on host arrays (or, for `Shape`, on a tensor without storage).

    Raises:
        UnsupportedModel: the result would be over the size budget; nothing was allocated.
    """
    if node.op == "ConstantOfShape":
        within_budget(node, math.prod(ints(arrays[0])), MAX_KNOWN_ELEMENTS)
    elif node.op == "Range":
        start, limit, delta = (float(scalar(a) or 0) for a in arrays)
        within_budget(node, abs((limit - start) / delta) if delta else math.inf, MAX_KNOWN_ELEMENTS)
    else:
        dry = kernel(*[a if i in row.host or not isinstance(a, np.ndarray) else meta(a) for i, a in enumerate(arrays)])
        within_budget(node, sum(t.numel() for t in (dry if isinstance(dry, tuple) else (dry,))), MAX_KNOWN_ELEMENTS)
    result = kernel(*[a if isinstance(a, Tensor) else as_tensor(a) for a in arrays])
    return [np.asarray(tensor.numpy()) for tensor in (result if isinstance(result, tuple) else (result,))]


def within_budget(node: Node, n: float, limit: int) -> None:
    """Raise UnsupportedModel when `n` values are over the limit."""
    if n > limit:
        raise UnsupportedModel(f"{node.op} '{node.name or node.outputs[0]}' makes {n:.0f} values: over the size budget")


def sample(value: Any) -> Value:
    """What a builder sees of an argument: live values and host values as tensors."""
    if value is None or isinstance(value, Tensor):
        return value
    return as_tensor(value.array if isinstance(value, Known) else value)


def meta(array: Array) -> Tensor:
    """A tensor like `array` without storage; floats in single precision."""
    dtype = torch.float32 if array.dtype.kind == "f" else torch.from_numpy(np.empty(0, array.dtype)).dtype
    return torch.empty(array.shape, dtype=dtype, device="meta")


def as_tensor(array: Array | None) -> Tensor | None:
    """An own copy of `array`."""
    return None if array is None else torch.from_numpy(np.array(array, order="C"))
