"""Slicing, gathering, scattering."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from auditor.targets.onnx_graph.graph import Node
from auditor.targets.onnx_graph.kernel import Kernel, Operator, Value, ints, operator, scalar, unsupported


def _slice(node: Node, args: Sequence[Value]) -> Kernel:
    if node.opset < 10:
        starts, ends = list(node.get("starts")), list(node.get("ends"))
        axes = list(node.get("axes") or range(len(starts)))
        return lambda x: _cut(x, starts, ends, axes, [1] * len(starts))

    def dynamic(x: Tensor, starts: Value, ends: Value, axes: Value = None, steps: Value = None) -> Tensor:
        first, last = ints(starts), ints(ends)
        along = ints(axes) if axes is not None else list(range(len(first)))
        by = ints(steps) if steps is not None else [1] * len(first)
        return _cut(x, first, last, along, by)

    return dynamic


def _cut(x: Tensor, starts: list[int], ends: list[int], axes: list[int], steps: list[int]) -> Tensor:
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = x.shape[axis]
        if step > 0:
            low, high, _ = slice(start, end, step).indices(size)
            if (low, high, step) != (0, size, 1):
                x = x[(slice(None),) * (axis % x.ndim) + (slice(low, max(low, high), step),)]
            continue
        positions = list(range(size))[slice(start, end if end >= -size else None, step)]
        x = x.index_select(axis, torch.tensor(positions, dtype=torch.int64, device=x.device))
    return x


def _gather(node: Node, args: Sequence[Value]) -> Kernel:
    axis = int(node.get("axis", 0))
    fixed = args[1]
    if fixed is not None and not isinstance(fixed, Tensor) and fixed.ndim == 0:
        position = int(fixed)
        return lambda x, _index: x.select(axis, position)

    def gather(x: Tensor, index: Tensor) -> Tensor:
        along = axis % x.ndim
        flat = index.reshape(-1).long()
        flat = torch.where(flat < 0, flat + x.shape[along], flat)
        picked = x.index_select(along, flat)
        return picked.reshape([*x.shape[:along], *index.shape, *x.shape[along + 1 :]])

    return gather


def _gather_elements(node: Node, args: Sequence[Value]) -> Kernel:
    axis = int(node.get("axis", 0))

    def gather_elements(x: Tensor, index: Tensor) -> Tensor:
        index = torch.where(index < 0, index + x.shape[axis], index)
        return x.gather(axis, index.long())

    return gather_elements


def _gather_nd(node: Node, args: Sequence[Value]) -> Kernel:
    if int(node.get("batch_dims", 0)):
        raise unsupported(node, "batch_dims")
    return lambda x, index: x[tuple(index.long().unbind(-1))]


def _scatter_nd(node: Node, args: Sequence[Value]) -> Kernel:
    if node.get("reduction", "none") != "none":
        raise unsupported(node, "reduction")
    return lambda x, index, updates: x.index_put(tuple(index.long().unbind(-1)), updates)


def _scatter_elements(node: Node, args: Sequence[Value]) -> Kernel:
    axis = int(node.get("axis", 0))
    if node.get("reduction", "none") != "none":
        raise unsupported(node, "reduction")
    return lambda x, index, updates: x.scatter(axis, index.long(), updates)


def _one_hot(node: Node, args: Sequence[Value]) -> Kernel:
    axis = int(node.get("axis", -1))

    def one_hot(index: Tensor, depth: Value, values: Tensor) -> Tensor:
        n = int(scalar(depth) or 0)
        hot = F.one_hot(index.long() % n, n).to(values.dtype)
        hot = hot * (values[1] - values[0]) + values[0]
        return hot if axis in (-1, index.ndim) else hot.movedim(-1, axis)

    return one_hot


def _trilu(node: Node, args: Sequence[Value]) -> Kernel:
    upper = bool(node.get("upper", 1))

    def trilu(x: Tensor, k: Value = None) -> Tensor:
        diagonal = int(scalar(k) or 0)
        return torch.triu(x, diagonal) if upper else torch.tril(x, diagonal)

    return trilu


def _cum_sum(node: Node, args: Sequence[Value]) -> Kernel:
    if node.get("exclusive", 0) or node.get("reverse", 0):
        raise unsupported(node, "exclusive or reverse")
    return lambda x, axis: x.cumsum(int(scalar(axis) or 0))


def _top_k(node: Node, args: Sequence[Value]) -> Kernel:
    axis, largest = int(node.get("axis", -1)), bool(node.get("largest", 1))
    return lambda x, k: tuple(torch.topk(x, int(scalar(k) or 0), dim=axis, largest=largest))


TABLE: dict[str, Operator] = {
    "Slice": operator(_slice, host=(1, 2, 3, 4)),
    "Gather": operator(_gather),
    "GatherElements": operator(_gather_elements),
    "GatherND": operator(_gather_nd),
    "ScatterND": operator(_scatter_nd),
    "ScatterElements": operator(_scatter_elements),
    "OneHot": operator(_one_hot, host=(1,)),
    "Trilu": operator(_trilu, host=(1,)),
    "CumSum": operator(_cum_sum, host=(1,)),
    "TopK": operator(_top_k, host=(1,)),
}
