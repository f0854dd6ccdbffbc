"""Convolutions, forward and transposed. With constant weights they become `nn.ConvNd`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from auditor.targets.onnx_graph.graph import Node
from auditor.targets.onnx_graph.kernel import Kernel, Layer, Operator, Slot, Value, operator, rank, unsupported

_CONV: dict[int, tuple[type[nn.Module], Callable[..., Tensor]]] = {
    1: (nn.Conv1d, F.conv1d),
    2: (nn.Conv2d, F.conv2d),
    3: (nn.Conv3d, F.conv3d),
}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_LARGEST_PAD = 4096


@dataclass(frozen=True)
class Window:
    """A sliding window, per spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    """Padding at the low end."""
    after: tuple[int, ...]
    """Padding at the high end."""

    @property
    def symmetric(self) -> bool:
        """Whether both ends are padded alike."""
        return self.before == self.after

    @property
    def pad_list(self) -> list[int]:
        """The padding in the order of `F.pad`: last axis first."""
        return [p for pair in reversed(list(zip(self.before, self.after, strict=True))) for p in pair]


def window_of(node: Node, kernel: Sequence[int], sizes: Sequence[int]) -> Window:
    """Read strides, dilations and padding (explicit or `auto_pad`) for an input of spatial `sizes`."""
    n = len(kernel)
    strides = tuple(node.get("strides") or [1] * n)
    dilations = tuple(node.get("dilations") or [1] * n)
    auto = node.get("auto_pad", "NOTSET")
    pads = list(node.get("pads") or [0] * 2 * n)
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        before, after = [], []
        for size, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
            total = max(0, (math.ceil(size / s) - 1) * s + (k - 1) * d + 1 - size)
            small, large = total // 2, total - total // 2
            before.append(small if auto == "SAME_UPPER" else large)
            after.append(large if auto == "SAME_UPPER" else small)
    elif auto == "VALID":
        before, after = [0] * n, [0] * n
    else:
        before, after = pads[:n], pads[n:]
    if max([*before, *after, 0]) > _LARGEST_PAD:
        raise unsupported(node, "huge padding")
    return Window(tuple(kernel), strides, dilations, tuple(before), tuple(after))


def _conv_window(node: Node, args: Sequence[Value]) -> Window:
    x, weight = args[0], args[1]
    if x is None or weight is None:
        raise unsupported(node, "missing input")
    return window_of(node, tuple(weight.shape[2:]), tuple(x.shape[2:]))


def _conv(node: Node, args: Sequence[Value]) -> Kernel:
    window, groups = _conv_window(node, args), int(node.get("group", 1))
    convolve = _CONV[len(window.kernel)][1]

    def conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if not window.symmetric:
            x = F.pad(x, window.pad_list)
        padding = window.before if window.symmetric else 0
        return convolve(x, weight, bias, window.strides, padding, window.dilations, groups)

    return conv


class PaddedConv(nn.Sequential):
    """Zero padding that differs between the two ends, then a convolution; keeps the convolution under `[1]`."""


def _conv_layer(node: Node, args: Sequence[Value], constant: Sequence[bool]) -> Layer | None:
    weight = args[1]
    bias = len(args) > 2 and args[2] is not None
    if weight is None or constant[0] or not constant[1] or (bias and not constant[2]):
        return None
    window, groups = _conv_window(node, args), int(node.get("group", 1))
    n = rank(weight) - 2
    if n not in _CONV:
        raise unsupported(node, f"{n} spatial axes")
    kind: Any = _CONV[n][0]
    module: nn.Module = kind(
        weight.shape[1] * groups,
        weight.shape[0],
        window.kernel,
        stride=window.strides,
        padding=window.before if window.symmetric else 0,
        dilation=window.dilations,
        groups=groups,
        bias=bias,
        device="meta",
    )
    prefix = ""
    if not window.symmetric:
        module = PaddedConv(_Pad(tuple(window.pad_list)), module)
        prefix = "1."
    slots = (Slot(f"{prefix}weight", 1),) + ((Slot(f"{prefix}bias", 2),) if bias else ())
    return Layer(module, slots)


class _Pad(nn.Module):
    def __init__(self, pads: tuple[int, ...]) -> None:
        super().__init__()
        self.pads = pads

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, self.pads)


def _conv_transpose(node: Node, args: Sequence[Value]) -> Kernel:
    x, weight = args[0], args[1]
    if x is None or weight is None:
        raise unsupported(node, "missing input")
    n, groups = rank(weight) - 2, int(node.get("group", 1))
    kernel, sizes = tuple(weight.shape[2:]), tuple(x.shape[2:])
    strides = tuple(node.get("strides") or [1] * n)
    dilations = tuple(node.get("dilations") or [1] * n)
    extra = tuple(node.get("output_padding") or [0] * n)
    full = [
        s * (i - 1) + e + (k - 1) * d + 1
        for s, i, e, k, d in zip(strides, sizes, extra, kernel, dilations, strict=True)
    ]
    before, after = _transposed_pads(node, full, sizes, strides)
    if n not in _TRANSPOSED or max([*before, *after, *extra, 0]) > _LARGEST_PAD:
        raise unsupported(node, "this padding")
    function = _TRANSPOSED[n]
    wanted = tuple(f - b - a for f, b, a in zip(full, before, after, strict=True))

    def transposed(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        y = function(x, weight, bias, strides, 0, 0, groups, dilations)
        short = [b + w - s for b, w, s in zip(before, wanted, y.shape[2:], strict=True)]
        if any(s > 0 for s in short):
            y = _extend(y, bias, [max(0, s) for s in short])
        for axis, (start, length) in enumerate(zip(before, wanted, strict=True), start=2):
            y = y.narrow(axis, start, length)
        return y

    return transposed


def _extend(y: Tensor, bias: Tensor | None, amounts: list[int]) -> Tensor:
    """Grow the high ends by cells no input reaches: they hold the bias alone."""
    pads = [p for amount in reversed(amounts) for p in (0, amount)]
    if bias is None:
        return F.pad(y, pads)
    shaped = bias.reshape(1, -1, *[1] * (y.ndim - 2))
    return F.pad(y - shaped, pads) + shaped


def _transposed_pads(
    node: Node, full: Sequence[int], sizes: Sequence[int], strides: Sequence[int]
) -> tuple[list[int], list[int]]:
    n, auto = len(full), node.get("auto_pad", "NOTSET")
    wanted = node.get("output_shape")
    if wanted or auto in ("SAME_UPPER", "SAME_LOWER"):
        target = list(wanted)[-n:] if wanted else [i * s for i, s in zip(sizes, strides, strict=True)]
        total = [max(0, f - t) for f, t in zip(full, target, strict=True)]
        small = [t // 2 for t in total]
        large = [t - t // 2 for t in total]
        return (large, small) if (auto != "SAME_UPPER" and wanted) or auto == "SAME_LOWER" else (small, large)
    if auto == "VALID":
        return [0] * n, [0] * n
    pads = list(node.get("pads") or [0] * 2 * n)
    return pads[:n], pads[n:]


TABLE: dict[str, Operator] = {
    "Conv": operator(_conv, weights=(1, 2), layer=_conv_layer),
    "ConvTranspose": operator(_conv_transpose, weights=(1, 2)),
}
