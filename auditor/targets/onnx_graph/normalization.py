"""Normalisation. Batch, layer and group norms with constant weights become native modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from auditor.targets.onnx_graph.graph import Node
from auditor.targets.onnx_graph.kernel import Kernel, Layer, Operator, Slot, Value, operator, rank, unsupported

_BATCH: dict[int, type[nn.Module]] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def _batch_norm(node: Node, args: Sequence[Value]) -> Kernel:
    eps = float(node.get("epsilon", 1e-5))
    return lambda x, scale, bias, mean, var: F.batch_norm(x, mean, var, scale, bias, False, 0.0, eps)


def _batch_norm_layer(node: Node, args: Sequence[Value], constant: Sequence[bool]) -> Layer | None:
    """Inference form, whatever `training_mode` says: statistics are buffers, never updated in eval mode."""
    n_axes = rank(args[0])
    scale = args[1]
    if scale is None or constant[0] or not all(constant[1:5]) or n_axes not in _BATCH:
        return None
    kind: Any = _BATCH[n_axes]
    # ONNX `momentum` is the share of the old value that is kept; torch's is the share of the new one.
    module = kind(
        scale.shape[0],
        eps=float(node.get("epsilon", 1e-5)),
        momentum=_momentum(node),
        device="meta",
    )
    slots = (
        Slot("weight", 1),
        Slot("bias", 2),
        Slot("running_mean", 3, buffer=True),
        Slot("running_var", 4, buffer=True),
    )
    return Layer(module, slots)


def _momentum(node: Node) -> float:
    kept = float(node.get("momentum", 0.9))
    return 1 - kept if 0 < kept < 1 else 0.1


def _instance_norm(node: Node, args: Sequence[Value]) -> Kernel:
    eps = float(node.get("epsilon", 1e-5))
    return lambda x, scale, bias: F.instance_norm(x, weight=scale, bias=bias, eps=eps)


def _layer_axes(node: Node, x: Value) -> int:
    axis, n_axes = int(node.get("axis", -1)), rank(x)
    return n_axes - (axis % n_axes)


def _layer_norm(node: Node, args: Sequence[Value]) -> Kernel:
    if any(node.outputs[1:]):
        raise unsupported(node, "mean output")
    eps, n = float(node.get("epsilon", 1e-5)), _layer_axes(node, args[0])

    def layer_norm(x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
        y = F.layer_norm(x, x.shape[-n:], eps=eps) * scale
        return y if bias is None else y + bias

    return layer_norm


def _layer_norm_layer(node: Node, args: Sequence[Value], constant: Sequence[bool]) -> Layer | None:
    x, scale = args[0], args[1]
    bias = args[2] if len(args) > 2 else None
    if x is None or scale is None or constant[0] or not constant[1] or any(node.outputs[1:]):
        return None
    shape = tuple(x.shape[-_layer_axes(node, x) :])
    if tuple(scale.shape) != shape or (bias is not None and (not constant[2] or tuple(bias.shape) != shape)):
        return None
    module = nn.LayerNorm(shape, eps=float(node.get("epsilon", 1e-5)), bias=bias is not None, device="meta")
    return Layer(module, (Slot("weight", 1),) + ((Slot("bias", 2),) if bias is not None else ()))


def _group_norm(node: Node, args: Sequence[Value]) -> Kernel:
    eps, groups = float(node.get("epsilon", 1e-5)), int(node.get("num_groups"))

    def group_norm(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        if len(scale) == groups:  # opset 18: one scale per group
            scale, bias = (v.repeat_interleave(x.shape[1] // groups) for v in (scale, bias))
        return F.group_norm(x, groups, scale, bias, eps)

    return group_norm


def _rms_norm(node: Node, args: Sequence[Value]) -> Kernel:
    eps, n = float(node.get("epsilon", 1e-5)), _layer_axes(node, args[0])
    return lambda x, scale: F.rms_norm(x, x.shape[-n:], eps=eps) * scale


def _local_response(node: Node, args: Sequence[Value]) -> Kernel:
    size = int(node.get("size"))
    alpha, beta, bias = (float(node.get(k, d)) for k, d in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))
    low, high = (size - 1) // 2, size - 1 - (size - 1) // 2

    def local_response(x: Tensor) -> Tensor:
        squares = F.pad((x * x).flatten(2).transpose(1, 2), (low, high))
        sums = squares.unfold(-1, size, 1).sum(-1).transpose(1, 2).reshape(x.shape)
        return x / (bias + alpha / size * sums).pow(beta)

    return local_response


def _lp_norm(node: Node, args: Sequence[Value]) -> Kernel:
    axis, p = int(node.get("axis", -1)), int(node.get("p", 2))
    return lambda x: x / torch.linalg.vector_norm(x, ord=p, dim=axis, keepdim=True)


def _mean_variance(node: Node, args: Sequence[Value]) -> Kernel:
    axes = tuple(node.get("axes") or (0, 2, 3))
    if 0 in axes:
        raise unsupported(node, "over the batch axis")

    def mean_variance(x: Tensor) -> Tensor:
        centred = x - x.mean(dim=axes, keepdim=True)
        return centred / (centred.square().mean(dim=axes, keepdim=True).sqrt() + 1e-9)

    return mean_variance


TABLE: dict[str, Operator] = {
    "BatchNormalization": operator(_batch_norm, weights=(1, 2), layer=_batch_norm_layer),
    "InstanceNormalization": operator(_instance_norm, weights=(1, 2)),
    "LayerNormalization": operator(_layer_norm, weights=(1, 2), layer=_layer_norm_layer),
    "GroupNormalization": operator(_group_norm, weights=(1, 2)),
    "RMSNormalization": operator(_rms_norm, weights=(1,)),
    "LRN": operator(_local_response),
    "LpNormalization": operator(_lp_norm),
    "MeanVarianceNormalization": operator(_mean_variance),
}
