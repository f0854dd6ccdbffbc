"""Activations and the softmax family."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from auditor.targets.onnx_graph.graph import Node
from auditor.targets.onnx_graph.kernel import Kernel, Operator, Value, operator, plain


def _leaky_relu(node: Node, args: Sequence[Value]) -> Kernel:
    slope = float(node.get("alpha", 0.01))
    return lambda x: F.leaky_relu(x, slope)


def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, x * slope, x)


def _elu(node: Node, args: Sequence[Value]) -> Kernel:
    alpha = float(node.get("alpha", 1.0))
    return lambda x: F.elu(x, alpha)


def _celu(node: Node, args: Sequence[Value]) -> Kernel:
    alpha = float(node.get("alpha", 1.0))
    return lambda x: F.celu(x, alpha)


def _selu(node: Node, args: Sequence[Value]) -> Kernel:
    alpha = float(node.get("alpha", 1.67326319217681884765625))
    gamma = float(node.get("gamma", 1.05070102214813232421875))
    return lambda x: gamma * F.elu(x, alpha)


def _thresholded_relu(node: Node, args: Sequence[Value]) -> Kernel:
    alpha = float(node.get("alpha", 1.0))
    return lambda x: torch.where(x > alpha, x, torch.zeros_like(x))


def _hard_sigmoid(node: Node, args: Sequence[Value]) -> Kernel:
    alpha, beta = float(node.get("alpha", 0.2)), float(node.get("beta", 0.5))
    if math.isclose(alpha, 1 / 6, rel_tol=1e-5) and beta == 0.5:
        return F.hardsigmoid
    return lambda x: torch.clamp(alpha * x + beta, 0, 1)


def _gelu(node: Node, args: Sequence[Value]) -> Kernel:
    approximate = str(node.get("approximate", "none"))
    return lambda x: F.gelu(x, approximate=approximate)


def _swish(node: Node, args: Sequence[Value]) -> Kernel:
    alpha = float(node.get("alpha", 1.0))
    return F.silu if alpha == 1 else lambda x: x * torch.sigmoid(alpha * x)


def _softmax(node: Node, args: Sequence[Value]) -> Kernel:
    return _over_axis(node, lambda x, axis: torch.softmax(x, axis))


def _log_softmax(node: Node, args: Sequence[Value]) -> Kernel:
    return _over_axis(node, lambda x, axis: torch.log_softmax(x, axis))


def _over_axis(node: Node, function: Kernel) -> Kernel:
    """Before opset 13 the input is first flattened to two axes at `axis` (default 1)."""
    if node.opset >= 13:
        axis = int(node.get("axis", -1))
        return lambda x: function(x, axis)
    first = int(node.get("axis", 1))

    def flattened(x: Tensor) -> Tensor:
        start = first % x.ndim
        if start == x.ndim - 1:
            return function(x, -1)  # type: ignore[no-any-return]
        return function(x.flatten(start), -1).reshape(x.shape)  # type: ignore[no-any-return]

    return flattened


TABLE: dict[str, Operator] = {
    "Relu": plain(torch.relu),
    "LeakyRelu": operator(_leaky_relu),
    "PRelu": operator(lambda _node, _args: _prelu, weights=(1,)),
    "Elu": operator(_elu),
    "Celu": operator(_celu),
    "Selu": operator(_selu),
    "ThresholdedRelu": operator(_thresholded_relu),
    "Sigmoid": plain(torch.sigmoid),
    "HardSigmoid": operator(_hard_sigmoid),
    "HardSwish": plain(F.hardswish),
    "Tanh": plain(torch.tanh),
    "Softplus": plain(F.softplus),
    "Softsign": plain(F.softsign),
    "Mish": plain(F.mish),
    "Gelu": operator(_gelu),
    "Swish": operator(_swish),
    "Softmax": operator(_softmax),
    "LogSoftmax": operator(_log_softmax),
}
