"""What an operator table holds: how to turn a node into a callable, and how callables read their arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from auditor.errors import UnsupportedModel
from auditor.targets.onnx_graph.graph import Array, Node

Value = Tensor | Array | None
"""A tensor of the batch, a host array (shapes, axes, limits), or an omitted input."""

Kernel = Callable[..., Any]
"""Inputs in the node's order to one output, or to a tuple of them. Captures plain values only, never tensors."""

Builder = Callable[[Node, Sequence[Value]], Kernel]
"""From a node and sample inputs (tensors without storage, host arrays) to its kernel."""


@dataclass(frozen=True)
class Slot:
    """How a module holds one constant input.

    Attributes:
        attribute: name of the parameter or buffer in the module.
        position: index of the node's input.
        transposed: the module keeps the matrix transposed.
        buffer: a statistic, not a trainable parameter.
    """

    attribute: str
    position: int
    transposed: bool = False
    buffer: bool = False


@dataclass(frozen=True)
class Layer:
    """A native module that stands for a node whose weights are constants; built on the meta device."""

    module: nn.Module
    slots: tuple[Slot, ...]


LayerBuilder = Callable[[Node, Sequence[Value], Sequence[bool]], Layer | None]
"""From a node, sample inputs (arrays where constant) and which are constants, to a layer; None: use the kernel."""


@dataclass(frozen=True)
class Operator:
    """One row of an operator table.

    Attributes:
        build: node to kernel.
        host: positions of inputs read as plain numbers (a shape, axes, limits); never moved to a device.
        weights: positions whose float constants are trained parameters.
        statistics: positions whose constants are buffers whatever their size.
        layer: turns a node with constant weights into a native torch module.
    """

    build: Builder
    host: frozenset[int] = field(default_factory=frozenset)
    weights: frozenset[int] = field(default_factory=frozenset)
    layer: LayerBuilder | None = None


def operator(
    build: Builder,
    *,
    host: tuple[int, ...] = (),
    weights: tuple[int, ...] = (),
    layer: LayerBuilder | None = None,
) -> Operator:
    """A row with positions given as tuples."""
    return Operator(build, frozenset(host), frozenset(weights), layer)


def plain(function: Kernel) -> Operator:
    """A row for an operator without attributes."""
    return Operator(lambda _node, _args: function)


def ints(value: Value) -> list[int]:
    """A host input as a list of ints."""
    if value is None:
        return []
    return [int(v) for v in np.atleast_1d(_host(value)).tolist()]


def floats(value: Value) -> list[float]:
    """A host input as a list of floats."""
    if value is None:
        return []
    return [float(v) for v in np.atleast_1d(_host(value)).tolist()]


def scalar(value: Value) -> float | int | None:
    """A host input of one element as a Python number; None when omitted or empty."""
    if value is None:
        return None
    array = _host(value)
    return array.reshape(-1)[0].item() if array.size else None  # type: ignore[no-any-return]


def _host(value: Tensor | Array) -> Array:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else value


def rank(value: Value) -> int:
    """Number of axes of a sample input."""
    if value is None:
        raise ValueError("a required input is missing")
    return value.ndim


def unsupported(node: Node, what: str) -> UnsupportedModel:
    """The error for a node whose operator is known but not in this form."""
    return UnsupportedModel(f"{node.op}({what})")


TORCH_DTYPES: dict[int, torch.dtype] = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float32,  # half precision is widened: audits run in float32
    11: torch.float32,
    16: torch.float32,
}
"""ONNX element type to the dtype we compute in."""
