"""Reductions over axes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from auditor.targets.onnx_graph.graph import Node
from auditor.targets.onnx_graph.kernel import Builder, Kernel, Operator, Value, ints, operator

_AXES_INPUT_SINCE = {"ReduceSum": 13}
"""First opset whose axes are an input; 18 for the others."""


def _reduce(function: Kernel) -> Builder:
    def build(node: Node, args: Sequence[Value]) -> Kernel:
        keep = bool(node.get("keepdims", 1))
        empty_is_all = not node.get("noop_with_empty_axes", 0)
        fixed = node.get("axes") if node.opset < _AXES_INPUT_SINCE.get(node.op, 18) else None

        def reduce(x: Tensor, axes: Value = None) -> Tensor:
            over = tuple(fixed) if fixed is not None else tuple(ints(axes))
            if not over:
                if not empty_is_all:
                    return x
                over = tuple(range(x.ndim))
            return function(x, over, keep)  # type: ignore[no-any-return]

        return reduce

    return build


def _product(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    for axis in sorted((a % x.ndim for a in axes), reverse=True):
        x = x.prod(dim=axis, keepdim=keep)
    return x


def _arg(function: Kernel) -> Builder:
    def build(node: Node, args: Sequence[Value]) -> Kernel:
        axis, keep = int(node.get("axis", 0)), bool(node.get("keepdims", 1))
        return lambda x: function(x, dim=axis, keepdim=keep)

    return build


_REDUCTIONS: dict[str, Kernel] = {
    "ReduceMean": lambda x, axes, keep: x.mean(dim=axes, keepdim=keep),
    "ReduceSum": lambda x, axes, keep: x.sum(dim=axes, keepdim=keep),
    "ReduceMax": lambda x, axes, keep: x.amax(dim=axes, keepdim=keep),
    "ReduceMin": lambda x, axes, keep: x.amin(dim=axes, keepdim=keep),
    "ReduceProd": _product,
    "ReduceL1": lambda x, axes, keep: x.abs().sum(dim=axes, keepdim=keep),
    "ReduceL2": lambda x, axes, keep: torch.linalg.vector_norm(x, dim=axes, keepdim=keep),
    "ReduceSumSquare": lambda x, axes, keep: x.square().sum(dim=axes, keepdim=keep),
    "ReduceLogSum": lambda x, axes, keep: x.sum(dim=axes, keepdim=keep).log(),
    "ReduceLogSumExp": lambda x, axes, keep: torch.logsumexp(x, dim=axes, keepdim=keep),
}

TABLE: dict[str, Operator] = {
    **{name: operator(_reduce(function), host=(1,)) for name, function in _REDUCTIONS.items()},
    "ArgMax": operator(_arg(torch.argmax)),
    "ArgMin": operator(_arg(torch.argmin)),
}
