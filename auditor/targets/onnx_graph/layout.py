"""Shapes and their arithmetic: reshape, transpose, join, split, expand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from auditor.targets.onnx_graph.graph import Node
from auditor.targets.onnx_graph.kernel import Kernel, Operator, Value, ints, operator, plain, rank, scalar, unsupported


def _reshape(node: Node, args: Sequence[Value]) -> Kernel:
    allow_zero = bool(node.get("allowzero", 0))

    def reshape(x: Tensor, shape: Value) -> Tensor:
        target = ints(shape)
        if not allow_zero:
            target = [x.shape[i] if size == 0 else size for i, size in enumerate(target)]
        return x.reshape(target)

    return reshape


def _flatten(node: Node, args: Sequence[Value]) -> Kernel:
    axis = int(node.get("axis", 1))

    def flatten(x: Tensor) -> Tensor:
        start = axis % x.ndim if axis < 0 else axis
        if start == 1:
            return x.flatten(1) if x.ndim > 1 else x.unsqueeze(1)
        return x.reshape(int(np.prod(x.shape[:start], dtype=np.int64)), -1)

    return flatten


def _transpose(node: Node, args: Sequence[Value]) -> Kernel:
    order = node.get("perm") or tuple(reversed(range(rank(args[0]))))
    order = tuple(order)
    return lambda x: x.permute(order)


def _squeeze(node: Node, args: Sequence[Value]) -> Kernel:
    fixed = node.get("axes") if node.opset < 13 else None

    def squeeze(x: Tensor, axes: Value = None) -> Tensor:
        wanted = tuple(fixed) if fixed is not None else tuple(ints(axes))
        return x.squeeze(wanted) if wanted else x.squeeze()

    return squeeze


def _unsqueeze(node: Node, args: Sequence[Value]) -> Kernel:
    fixed = node.get("axes") if node.opset < 13 else None

    def unsqueeze(x: Tensor, axes: Value = None) -> Tensor:
        wanted = list(fixed) if fixed is not None else ints(axes)
        n = x.ndim + len(wanted)
        for axis in sorted(a % n for a in wanted):
            x = x.unsqueeze(axis)
        return x

    return unsqueeze


def _concat(node: Node, args: Sequence[Value]) -> Kernel:
    axis = int(node.get("axis", 0))
    return lambda *parts: torch.cat(parts, dim=axis)


def _split(node: Node, args: Sequence[Value]) -> Kernel:
    axis, n_parts = int(node.get("axis", 0)), int(node.get("num_outputs", len(node.outputs)))
    fixed = node.get("split") if node.opset < 13 else None

    def split(x: Tensor, sizes: Value = None) -> tuple[Tensor, ...]:
        wanted = list(fixed) if fixed is not None else ints(sizes)
        if not wanted:
            step = -(-x.shape[axis] // n_parts)
            wanted = [min(step, x.shape[axis] - step * i) for i in range(n_parts)]
        return torch.split(x, wanted, dim=axis)

    return split


def _expand(x: Tensor, shape: Value) -> Tensor:
    target = ints(shape)
    return x.expand(torch.broadcast_shapes(x.shape, target))


def _tile(x: Tensor, repeats: Value) -> Tensor:
    return x.repeat(ints(repeats))


def _depth_to_space(node: Node, args: Sequence[Value]) -> Kernel:
    block, column_first = int(node.get("blocksize")), node.get("mode", "DCR") == "DCR"

    def depth_to_space(x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        c = C // block**2
        if column_first:
            y = x.reshape(B, block, block, c, H, W).permute(0, 3, 4, 1, 5, 2)
        else:
            y = x.reshape(B, c, block, block, H, W).permute(0, 1, 4, 2, 5, 3)
        return y.reshape(B, c, H * block, W * block)

    return depth_to_space


def _space_to_depth(node: Node, args: Sequence[Value]) -> Kernel:
    block = int(node.get("blocksize"))

    def space_to_depth(x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        y = x.reshape(B, C, H // block, block, W // block, block).permute(0, 3, 5, 1, 2, 4)
        return y.reshape(B, C * block**2, H // block, W // block)

    return space_to_depth


def _shape(node: Node, args: Sequence[Value]) -> Kernel:
    start, end = int(node.get("start", 0)), node.get("end")
    return lambda x: torch.tensor(list(x.shape)[start:end], dtype=torch.int64)


def _size(x: Tensor) -> Tensor:
    return torch.tensor(x.numel(), dtype=torch.int64)


def _range(node: Node, args: Sequence[Value]) -> Kernel:
    first = args[0]
    dtype = first.dtype if isinstance(first, Tensor) else torch.int64

    def make_range(start: Value, limit: Value, delta: Value) -> Tensor:
        low, high, step = (scalar(v) or 0 for v in (start, limit, delta))
        return torch.arange(low, high, step, dtype=dtype)

    return make_range


def _constant_of_shape(node: Node, args: Sequence[Value]) -> Kernel:
    value = node.get("value")
    fill = np.zeros(1, np.float32) if value is None else np.asarray(value)

    def constant_of_shape(shape: Value) -> Tensor:
        return torch.from_numpy(np.full(ints(shape), fill.reshape(-1)[0]))

    if fill.size != 1:
        raise unsupported(node, "several values")
    return constant_of_shape


TABLE: dict[str, Operator] = {
    "Reshape": operator(_reshape, host=(1,)),
    "Flatten": operator(_flatten),
    "Transpose": operator(_transpose),
    "Squeeze": operator(_squeeze, host=(1,)),
    "Unsqueeze": operator(_unsqueeze, host=(1,)),
    "Concat": operator(_concat),
    "Split": operator(_split, host=(1,)),
    "Expand": operator(lambda _node, _args: _expand, host=(1,)),
    "Tile": operator(lambda _node, _args: _tile, host=(1,)),
    "DepthToSpace": operator(_depth_to_space),
    "SpaceToDepth": operator(_space_to_depth),
    "Shape": operator(_shape),
    "Size": plain(_size),
    "Range": operator(_range, host=(0, 1, 2)),
    "ConstantOfShape": operator(_constant_of_shape, host=(0,)),
}
