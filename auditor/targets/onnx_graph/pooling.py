"""Pooling over windows and over whole feature maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from auditor.targets.onnx_graph.convolution import Window, window_of
from auditor.targets.onnx_graph.graph import Node
from auditor.targets.onnx_graph.kernel import Kernel, Operator, Value, operator, plain, unsupported

_MAX: dict[int, Callable[..., Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _window(node: Node, args: Sequence[Value]) -> Window:
    x = args[0]
    if x is None or node.get("kernel_shape") is None or x.ndim - 2 not in _MAX:
        raise unsupported(node, "this rank")
    return window_of(node, tuple(node.get("kernel_shape")), tuple(x.shape[2:]))


def _fits_torch(window: Window) -> bool:
    """Torch pads both ends alike and by at most half the window."""
    return window.symmetric and all(2 * p <= k for p, k in zip(window.before, window.kernel, strict=True))


def _max_pool(node: Node, args: Sequence[Value]) -> Kernel:
    if len(node.outputs) > 1 and node.outputs[1]:
        raise unsupported(node, "indices output")
    window, ceil = _window(node, args), bool(node.get("ceil_mode", 0))
    pool = _MAX[len(window.kernel)]
    if _fits_torch(window):
        return lambda x: pool(x, window.kernel, window.strides, window.before, window.dilations, ceil)

    def padded(x: Tensor) -> Tensor:
        x = F.pad(x, window.pad_list, value=float("-inf"))
        return pool(x, window.kernel, window.strides, 0, window.dilations, ceil)

    return padded


def _average_pool(node: Node, args: Sequence[Value]) -> Kernel:
    window, ceil = _window(node, args), bool(node.get("ceil_mode", 0))
    include = bool(node.get("count_include_pad", 0))
    if any(d != 1 for d in window.dilations):
        raise unsupported(node, "dilations")
    pool = _AVERAGE[len(window.kernel)]
    if _fits_torch(window):
        return lambda x: pool(x, window.kernel, window.strides, window.before, ceil, include)

    def padded(x: Tensor) -> Tensor:
        y = pool(F.pad(x, window.pad_list), window.kernel, window.strides, 0, ceil)
        if include:
            return y
        real = F.pad(torch.ones_like(x[:1, :1]), window.pad_list)
        return y / pool(real, window.kernel, window.strides, 0, ceil)

    return padded


def _lp_pool(node: Node, args: Sequence[Value]) -> Kernel:
    window, p = _window(node, args), float(node.get("p", 2))
    if node.get("ceil_mode", 0) or any(d != 1 for d in window.dilations):
        raise unsupported(node, "ceil_mode or dilations")
    pool, count = _AVERAGE[len(window.kernel)], 1
    for k in window.kernel:
        count *= k

    def lp(x: Tensor) -> Tensor:
        powered = F.pad(x.abs().pow(p), window.pad_list)
        return (pool(powered, window.kernel, window.strides) * count).pow(1 / p)

    return lp


def _global_average(x: Tensor) -> Tensor:
    return x.mean(dim=tuple(range(2, x.ndim)), keepdim=True)


def _global_max(x: Tensor) -> Tensor:
    return x.amax(dim=tuple(range(2, x.ndim)), keepdim=True)


TABLE: dict[str, Operator] = {
    "MaxPool": operator(_max_pool),
    "AveragePool": operator(_average_pool),
    "LpPool": operator(_lp_pool),
    "GlobalAveragePool": plain(_global_average),
    "GlobalMaxPool": plain(_global_max),
}
