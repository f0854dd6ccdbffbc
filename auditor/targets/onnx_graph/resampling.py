"""Resizing, padding and sampling of feature maps.

Resize follows the ONNX definition axis by axis: the coordinates and weights of every output cell are worked out in
numpy when the graph is built, and applied as an index or as a small matrix, so every mode is exact and differentiable.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from auditor.targets.onnx_graph.graph import Array, Node
from auditor.targets.onnx_graph.kernel import (
    Kernel,
    Operator,
    Value,
    floats,
    ints,
    operator,
    rank,
    scalar,
    unsupported,
)

_LARGEST_SIDE = 4096


def _coordinates(mode: str, n_in: int, n_out: int, scale: float) -> Array:
    """Where each output cell lies on the input axis; in single precision, as runtimes compute it (ties matter)."""
    at = np.arange(n_out, dtype=np.float32)
    scale = np.float32(scale)  # type: ignore[assignment]
    if mode == "align_corners":
        return at * (n_in - 1) / (n_out - 1) if n_out > 1 else np.zeros(n_out)
    if mode == "asymmetric":
        return at / scale
    if mode == "pytorch_half_pixel" and n_out == 1:
        return np.zeros(n_out)
    if mode == "half_pixel_symmetric":
        centre = n_in / 2 * (1 - n_out / (scale * n_in))
        return centre + (at + 0.5) / scale - 0.5
    return (at + 0.5) / scale - 0.5


def _nearest(mode: str, at: Array, n_in: int) -> Array:
    if mode == "floor":
        index = np.floor(at)
    elif mode == "ceil":
        index = np.ceil(at)
    elif mode == "round_prefer_ceil":
        index = np.floor(at + 0.5)
    else:
        index = np.ceil(at - 0.5)
    return np.clip(index, 0, n_in - 1).astype(np.int64)


def _cubic(distance: Array, a: float) -> Array:
    d = np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def _matrix(node: Node, n_in: int, n_out: int, scale: float, mode: str) -> Array:
    """(n_out, n_in) weights of the linear and cubic modes."""
    at = _coordinates(str(node.get("coordinate_transformation_mode", "half_pixel")), n_in, n_out, scale)
    radius = 2 if mode == "cubic" else 1
    shrink = min(scale, 1.0) if node.get("antialias", 0) else 1.0
    reach = math.ceil(radius / shrink)
    base = np.floor(at).astype(np.int64)
    matrix = np.zeros((n_out, n_in))
    for offset in range(-reach + 1, reach + 1):
        cell = base + offset
        distance = (cell - at) * shrink
        weight = (
            _cubic(distance, float(node.get("cubic_coeff_a", -0.75)))
            if mode == "cubic"
            else np.clip(1 - np.abs(distance), 0, None)
        )
        outside = (cell < 0) | (cell >= n_in)
        if node.get("exclude_outside", 0):
            weight = np.where(outside, 0.0, weight)
        np.add.at(matrix, (np.arange(n_out), np.clip(cell, 0, n_in - 1)), weight)
    weights: Array = (matrix / matrix.sum(axis=1, keepdims=True)).astype(np.float32)
    return weights


def _sizes(node: Node, x: Value, scales: list[float], sizes: list[int]) -> tuple[list[int], list[float]]:
    if x is None:
        raise unsupported(node, "missing input")
    shape, n = list(x.shape), rank(x)
    axes = [a % n for a in node.get("axes", range(n))]
    wanted, factors = list(shape), [1.0] * n
    if node.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise unsupported(node, "keep_aspect_ratio_policy")
    for i, axis in enumerate(axes):
        if axis == 0:
            continue  # the batch axis is never resized
        if sizes:
            wanted[axis], factors[axis] = sizes[i], sizes[i] / shape[axis]
        elif scales:
            wanted[axis], factors[axis] = math.floor(shape[axis] * scales[i]), scales[i]
    if max(wanted[1:]) > _LARGEST_SIDE or min(wanted[1:]) < 1:
        raise unsupported(node, "this size")
    return wanted, factors


def _resize(node: Node, args: Sequence[Value]) -> Kernel:
    if node.op == "Upsample" or node.opset < 11:
        scales = floats(args[1]) if len(args) > 1 else [float(s) for s in node.get("scales")]
        legacy = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        node = Node(node.op, node.name, node.inputs, node.outputs, {**node.attributes, **legacy}, node.opset)
        sizes: list[int] = []
    else:
        scales = floats(args[2]) if len(args) > 2 else []
        sizes = ints(args[3]) if len(args) > 3 else []
    mode = str(node.get("mode", "nearest"))
    if node.get("coordinate_transformation_mode") in ("tf_crop_and_resize", "tf_half_pixel_for_nn"):
        raise unsupported(node, str(node.get("coordinate_transformation_mode")))
    wanted, factors = _sizes(node, args[0], scales, sizes)
    before: list[int] = list(args[0].shape)  # type: ignore[union-attr]
    picks: list[tuple[int, Array]] = []
    for axis in range(1, len(wanted)):
        if wanted[axis] == before[axis] and factors[axis] == 1:
            continue
        n_in, n_out, factor = before[axis], wanted[axis], factors[axis]
        if mode == "nearest":
            at = _coordinates(str(node.get("coordinate_transformation_mode", "half_pixel")), n_in, n_out, factor)
            picks.append((axis, _nearest(str(node.get("nearest_mode", "round_prefer_floor")), at, n_in)))
        else:
            picks.append((axis, _matrix(node, n_in, n_out, factor, mode)))

    def resize(x: Tensor, *_: Value) -> Tensor:
        for axis, pick in picks:
            weights = torch.from_numpy(pick).to(x.device)
            if pick.ndim == 1:
                x = x.index_select(axis, weights)
            else:
                x = (x.movedim(axis, -1) @ weights.to(x.dtype).t()).movedim(-1, axis)
        return x

    return resize


def _pad(node: Node, args: Sequence[Value]) -> Kernel:
    mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}.get(
        str(node.get("mode", "constant"))
    )
    fixed = node.get("pads") if node.opset < 11 else None
    n = rank(args[0])
    if mode is None:
        raise unsupported(node, str(node.get("mode")))

    def pad(x: Tensor, pads: Value = None, value: Value = None, axes: Value = None) -> Tensor:
        given = list(fixed) if fixed is not None else ints(pads)
        along = [a % n for a in ints(axes)] if axes is not None else list(range(n))
        low, high = [0] * n, [0] * n
        for i, axis in enumerate(along):
            low[axis], high[axis] = given[i], given[i + len(along)]
        fill = float(node.get("value", 0.0)) if fixed is not None else float(scalar(value) or 0.0)
        if mode == "constant":
            amounts = [p for axis in reversed(range(n)) for p in (low[axis], high[axis])]
            return F.pad(x, amounts, value=fill)
        return _pad_edges(x, mode, low, high)

    return pad


def _pad_edges(x: Tensor, mode: str, low: list[int], high: list[int]) -> Tensor:
    """Reflect, replicate and wrap, axis by axis through an index."""
    for axis, (before, after) in enumerate(zip(low, high, strict=True)):
        if before == after == 0:
            continue
        size = x.shape[axis]
        at = np.arange(-before, size + after)
        if mode == "reflect":
            period = max(1, 2 * (size - 1))
            at = np.abs(at) % period
            at = np.where(at >= size, period - at, at)
        elif mode == "replicate":
            at = np.clip(at, 0, size - 1)
        else:
            at = at % size
        x = x.index_select(axis, torch.from_numpy(at.astype(np.int64)).to(x.device))
    return x


def _grid_sample(node: Node, args: Sequence[Value]) -> Kernel:
    names = {"linear": "bilinear", "cubic": "bicubic"}
    mode = str(node.get("mode", "bilinear"))
    padding, align = str(node.get("padding_mode", "zeros")), bool(node.get("align_corners", 0))
    return lambda x, grid: F.grid_sample(x, grid, names.get(mode, mode), padding, align)


TABLE: dict[str, Operator] = {
    "Resize": operator(_resize, host=(1, 2, 3)),
    "Upsample": operator(_resize, host=(1,)),
    "Pad": operator(_pad, host=(1, 2, 3)),
    "GridSample": operator(_grid_sample),
}
