"""Arithmetic, comparison, logic and casts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from auditor.targets.onnx_graph.graph import Node
from auditor.targets.onnx_graph.kernel import (
    TORCH_DTYPES,
    Kernel,
    Operator,
    Value,
    operator,
    plain,
    scalar,
    unsupported,
)


def _divide(a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _power(a: Tensor, b: Tensor) -> Tensor:
    return torch.pow(a, b).to(a.dtype)


def _constant_power(node: Node, args: Sequence[Value]) -> Kernel:
    """Squares and square roots take their own kernels: their gradients are finite and cheap."""
    exponent = scalar(args[1]) if len(args) > 1 and not isinstance(args[1], Tensor) else None
    if exponent == 2:
        return lambda a, _b: a * a
    return _power


def _mod(node: Node, args: Sequence[Value]) -> Kernel:
    return torch.fmod if node.get("fmod", 0) else torch.remainder


def _fold(function: Callable[[Tensor, Tensor], Tensor]) -> Kernel:
    return lambda *values: functools.reduce(function, values)


def _mean(*values: Tensor) -> Tensor:
    total: Tensor = functools.reduce(torch.add, values)
    return total / len(values)


def _clip(node: Node, args: Sequence[Value]) -> Kernel:
    if node.opset < 11:
        low, high = node.get("min"), node.get("max")
        return lambda x: torch.clamp(x, low, high) if (low, high) != (None, None) else x

    def clip(x: Tensor, low: Value = None, high: Value = None) -> Tensor:
        lower, upper = scalar(low), scalar(high)
        return x if lower is None and upper is None else torch.clamp(x, lower, upper)

    return clip


def _cast(node: Node, args: Sequence[Value]) -> Kernel:
    wanted = int(node.get("to", 1))
    if wanted not in TORCH_DTYPES:
        raise unsupported(node, f"to={wanted}")
    dtype = TORCH_DTYPES[wanted]
    return lambda x: x.to(dtype) if x.dtype != dtype and not (x.is_floating_point() and dtype.is_floating_point) else x


def _where(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(condition.bool(), a, b)


def _dropout(node: Node, args: Sequence[Value]) -> Kernel:
    if len(node.outputs) > 1 and node.outputs[1]:
        raise unsupported(node, "mask output")
    return lambda x, *_: x


def _identity(x: Value) -> Value:
    return x


TABLE: dict[str, Operator] = {
    "Add": plain(torch.add),
    "Sub": plain(torch.sub),
    "Mul": plain(torch.mul),
    "Div": plain(_divide),
    "Pow": operator(_constant_power),
    "Mod": operator(_mod),
    "Sum": plain(_fold(torch.add)),
    "Mean": plain(_mean),
    "Min": plain(_fold(torch.minimum)),
    "Max": plain(_fold(torch.maximum)),
    "Sqrt": plain(torch.sqrt),
    "Exp": plain(torch.exp),
    "Log": plain(torch.log),
    "Abs": plain(torch.abs),
    "Neg": plain(torch.neg),
    "Sign": plain(torch.sign),
    "Reciprocal": plain(torch.reciprocal),
    "Floor": plain(torch.floor),
    "Ceil": plain(torch.ceil),
    "Round": plain(torch.round),
    "Sin": plain(torch.sin),
    "Cos": plain(torch.cos),
    "Tan": plain(torch.tan),
    "Atan": plain(torch.atan),
    "Erf": plain(torch.erf),
    "IsNaN": plain(torch.isnan),
    "Equal": plain(torch.eq),
    "Less": plain(torch.lt),
    "LessOrEqual": plain(torch.le),
    "Greater": plain(torch.gt),
    "GreaterOrEqual": plain(torch.ge),
    "And": plain(torch.logical_and),
    "Or": plain(torch.logical_or),
    "Xor": plain(torch.logical_xor),
    "Not": plain(torch.logical_not),
    "Where": plain(_where),
    "Clip": operator(_clip, host=(1, 2)),
    "Cast": operator(_cast),
    "CastLike": plain(lambda x, like: x if x.is_floating_point() and like.is_floating_point() else x.to(like.dtype)),
    "Identity": plain(_identity),
    "Dropout": operator(_dropout, host=(1, 2)),
}
