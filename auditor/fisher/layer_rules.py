"""Per-sample gradients of single layers from their input and their output gradient.

`CaptureGradients` watches a forward pass at the level of torch functions. Each call that reads a parameter must have a
rule here (convolution, linear, self-attention, batch/layer/group norm, PReLU, and arithmetic with, or expansion of, a
broadcast parameter); anything else raises `NotCovered` and the caller takes another engine. Rules require that
dimension 0 of input and output counts the samples.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from auditor.fisher.weight_squares import MatrixSquares, ParameterSquares, VectorSquares, windows


class NotCovered(Exception):
    """A parameter is read in a way that has no layer rule."""


@dataclass
class _Use:
    """One parameter read by one call: where its gradient comes from and how it is squared."""

    name: str
    edge: GradientEdge
    squares: ParameterSquares


@dataclass
class CaptureGradients(TorchFunctionMode):
    """Context for one forward pass; afterwards `reduce` gives every parameter's per-sample squares.

    Attributes:
        names: `id(parameter)` to its name. Gradients reach activations only, so `requires_grad` plays no part.
    """

    names: dict[int, str]
    uses: list[_Use] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and id(leaf) in self.names]
        if not read:
            return func(*args, **kwargs)
        rule = _RULES.get(getattr(func, "__name__", ""))
        if rule is None:
            result = func(*args, **kwargs)
            if any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):
                raise NotCovered(getattr(func, "__name__", str(func)))
            return result  # a question about the parameter (its shape, its device), not a computation
        seen = {use.name for use in self.uses}
        if len({id(value) for value in read}) != len(read) or any(self.names[id(value)] in seen for value in read):
            raise NotCovered("a parameter is read more than once")
        result, uses = rule(self, func, args, kwargs)
        self.uses += uses
        return result

    def name_of(self, value: Any) -> str | None:
        """The parameter's name; None for anything else."""
        return self.names.get(id(value)) if isinstance(value, Tensor) else None

    def reduce(self, outputs: Tensor, cotangents: Sequence[Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Backpropagate every cotangent (like `outputs`); yield each parameter's name and (2, B) sums over them."""
        edges = list(dict.fromkeys(use.edge for use in self.uses))
        reached: dict[str, _Use] = {}
        for use in self.uses:
            use.squares.begin(len(cotangents))
        for cotangent in cotangents:
            gradients = torch.autograd.grad(outputs, edges, cotangent, retain_graph=True, allow_unused=True)
            by_edge = dict(zip(edges, gradients, strict=True))
            for use in self.uses:
                gradient = by_edge[use.edge]
                if gradient is not None:
                    use.squares.add(gradient)
                    reached[use.name] = use
        for name, use in reached.items():
            yield name, use.squares.sums()


Rule = Callable[[CaptureGradients, Any, tuple[Any, ...], dict[str, Any]], tuple[Tensor, list[_Use]]]


def _bind(names: str, args: tuple[Any, ...], kwargs: dict[str, Any], **defaults: Any) -> dict[str, Any]:
    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names.split()]
    bound = inspect.Signature(parameters).bind_partial(*args, **kwargs).arguments
    return defaults | bound


def _same_rows(x: Tensor, z: Tensor) -> None:
    if x.ndim < 2 or z.ndim < 2 or x.shape[0] != z.shape[0]:
        raise NotCovered("dimension 0 does not count the samples")


def _plain(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.detach()


def _conv2d(capture: CaptureGradients, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    call = _bind(
        "input weight bias stride padding dilation groups", args, kwargs,
        bias=None, stride=1, padding=0, dilation=1, groups=1,
    )  # fmt: skip
    x, weight, bias, groups = call["input"], call["weight"], call["bias"], call["groups"]
    if isinstance(call["padding"], str) or capture.name_of(x) is not None:
        raise NotCovered("convolution with named padding")
    z = func(x, weight.detach(), _plain(bias), call["stride"], call["padding"], call["dilation"], groups)
    _same_rows(x, z)
    edge = get_gradient_edge(z)
    uses: list[_Use] = []
    held = x.detach()
    kernel, stride, padding, dilation = (
        _pair(value) for value in (weight.shape[2:], call["stride"], call["padding"], call["dilation"])
    )

    if (name := capture.name_of(weight)) is not None:
        grouped = weight.detach().permute(0, 2, 3, 1).reshape(groups, weight.shape[0] // groups, -1)
        matrix = MatrixSquares(
            grouped,
            lambda: windows(held, kernel, stride, padding, dilation, groups),
            lambda delta: delta.flatten(2).unflatten(1, (groups, -1)),
        )
        uses.append(_Use(name, edge, matrix))
    if (name := capture.name_of(bias)) is not None:
        uses.append(_Use(name, edge, VectorSquares(bias, lambda delta: delta.sum(dim=(2, 3)))))
    return z, uses


def _pair(value: Any) -> tuple[int, int]:
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[-1]))


def _linear_uses(
    capture: CaptureGradients, x: Tensor, z: Tensor, weight: Tensor, bias: Tensor | None, *, transposed: bool
) -> list[_Use]:
    """Uses of z = x W^T + b, x (B, ..., I); `transposed` means that the parameter is stored as (I, O)."""
    _same_rows(x, z)
    edge, held = get_gradient_edge(z), x.detach()
    uses: list[_Use] = []

    def by_position(value: Tensor) -> Tensor:
        return value.reshape(len(value), 1, -1, value.shape[-1])  # (B, 1, T, features)

    if (name := capture.name_of(weight)) is not None:
        theta = weight.detach().T if transposed else weight.detach()
        matrix = MatrixSquares(theta[None], lambda: by_position(held), lambda delta: by_position(delta).transpose(2, 3))
        uses.append(_Use(name, edge, matrix))
    if bias is not None and (name := capture.name_of(bias)) is not None:
        total = VectorSquares(bias, lambda delta: delta.reshape(len(delta), -1, delta.shape[-1]).sum(dim=1))
        uses.append(_Use(name, edge, total))
    return uses


def _linear(capture: CaptureGradients, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    call = _bind("input weight bias", args, kwargs, bias=None)
    x, weight, bias = call["input"], call["weight"], call["bias"]
    z = func(x, weight.detach(), _plain(bias))
    return z, _linear_uses(capture, x, z, weight, bias, transposed=False)


def _matmul(capture: CaptureGradients, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if len(args) != 2 or kwargs or capture.name_of(args[0]) is not None or args[1].ndim != 2:
        raise NotCovered("matmul with a parameter on the left or in a batch")
    x, weight = args
    z = func(x, weight.detach())
    return z, _linear_uses(capture, x, z, weight, None, transposed=True)


def _addmm(capture: CaptureGradients, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if len(args) != 3 or kwargs or capture.name_of(args[1]) is not None or args[0].ndim != 1:
        raise NotCovered("addmm with scales or a parameter on the left")
    bias, x, weight = args
    z = func(bias.detach(), x, weight.detach())
    return z, _linear_uses(capture, x, z, weight, bias, transposed=True)


def _norm_uses(
    capture: CaptureGradients, z: Tensor, whitened: Callable[[], Tensor], weight: Any, bias: Any, keep: tuple[int, ...]
) -> list[_Use]:
    """Uses of z = whitened * weight + bias; `keep` are the dimensions the parameters run along."""
    edge = get_gradient_edge(z)
    uses: list[_Use] = []
    kept: list[Tensor] = []
    rest = tuple(d for d in range(1, z.ndim) if d not in keep)

    def total(value: Tensor) -> Tensor:
        return value.sum(dim=rest) if rest else value

    def scale(delta: Tensor) -> Tensor:
        if not kept:  # for the next backward pass
            kept.append(whitened())
        return total(delta * kept[0])

    if (name := capture.name_of(weight)) is not None:
        uses.append(_Use(name, edge, VectorSquares(weight, scale)))
    if (name := capture.name_of(bias)) is not None:
        uses.append(_Use(name, edge, VectorSquares(bias, total)))
    return uses


def _batch_norm(capture: CaptureGradients, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    call = _bind(
        "input running_mean running_var weight bias training momentum eps", args, kwargs,
        weight=None, bias=None, training=False, momentum=0.1, eps=1e-5,
    )  # fmt: skip
    x, mean, var = call["input"], call["running_mean"], call["running_var"]
    if call["training"] or mean is None or any(capture.name_of(value) is not None for value in (x, mean, var)):
        raise NotCovered("batch norm that mixes samples or learns its statistics")
    weight, bias = call["weight"], call["bias"]
    z = F.batch_norm(x, mean, var, _plain(weight), _plain(bias), False, call["momentum"], call["eps"])
    _same_rows(x, z)
    held = x.detach()
    return z, _norm_uses(
        capture, z, lambda: F.batch_norm(held, mean, var, None, None, False, 0.0, call["eps"]), weight, bias, (1,)
    )


def _layer_norm(capture: CaptureGradients, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    call = _bind("input normalized_shape weight bias eps", args, kwargs, weight=None, bias=None, eps=1e-5)
    x, shape, weight, bias = call["input"], list(call["normalized_shape"]), call["weight"], call["bias"]
    z = F.layer_norm(x, shape, _plain(weight), _plain(bias), call["eps"])
    _same_rows(x, z)
    keep, held = tuple(range(x.ndim - len(shape), x.ndim)), x.detach()
    return z, _norm_uses(capture, z, lambda: F.layer_norm(held, shape, None, None, call["eps"]), weight, bias, keep)


def _group_norm(capture: CaptureGradients, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    call = _bind("input num_groups weight bias eps", args, kwargs, weight=None, bias=None, eps=1e-5)
    x, groups, weight, bias = call["input"], call["num_groups"], call["weight"], call["bias"]
    z = F.group_norm(x, groups, _plain(weight), _plain(bias), call["eps"])
    _same_rows(x, z)
    held = x.detach()
    return z, _norm_uses(capture, z, lambda: F.group_norm(held, groups, None, None, call["eps"]), weight, bias, (1,))


def _prelu(capture: CaptureGradients, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    call = _bind("input weight", args, kwargs)
    x, weight = call["input"], call["weight"]
    if (name := capture.name_of(weight)) is None:
        raise NotCovered("prelu of a parameter")
    z = func(x, weight.detach())
    _same_rows(x, z)
    negative, keep = x.detach().clamp(max=0), (1,) if weight.numel() > 1 else ()
    rest = tuple(d for d in range(1, x.ndim) if d not in keep)

    def slope(delta: Tensor) -> Tensor:
        gradient: Tensor = delta * negative
        return (gradient.sum(dim=rest) if rest else gradient).reshape(len(delta), -1)

    return z, [_Use(name, get_gradient_edge(z), VectorSquares(weight, slope))]


def _arithmetic(capture: CaptureGradients, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Arithmetic with a broadcast parameter: every sample gets its own copy, and autograd gives its gradient."""
    if len(args) != 2 or kwargs or not all(isinstance(value, Tensor) for value in args):
        raise NotCovered("arithmetic with scales")
    names = [capture.name_of(value) for value in args]
    if None not in names:
        raise NotCovered("arithmetic between parameters")
    place = 0 if names[0] is not None else 1
    parameter, x, name = args[place], args[1 - place], names[place]
    if parameter.ndim > x.ndim or (parameter.ndim == x.ndim and parameter.shape[0] != 1):
        raise NotCovered("a parameter that does not broadcast over the samples")
    own = parameter.detach().reshape(*[1] * (x.ndim - parameter.ndim), *parameter.shape)
    own = own.expand(x.shape[0], *own.shape[1:]).contiguous().requires_grad_()
    z = func(own, x) if place == 0 else func(x, own)
    _same_rows(x, z)
    return z, [_Use(str(name), get_gradient_edge(own), VectorSquares(parameter, lambda gradient: gradient))]


def _expand(capture: CaptureGradients, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A parameter repeated for every sample (a class token): every sample gets its own copy."""
    parameter = args[0]
    z = func(parameter.detach(), *args[1:], **kwargs).contiguous().requires_grad_()
    if parameter.ndim != z.ndim or parameter.shape[0] != 1 or parameter.shape[1:] != z.shape[1:]:
        raise NotCovered("a parameter expanded over more than the samples")
    name = capture.name_of(parameter)
    return z, [_Use(str(name), get_gradient_edge(z), VectorSquares(parameter, lambda gradient: gradient))]


_ATTENTION = (
    "query key value embed_dim_to_check num_heads in_proj_weight in_proj_bias bias_k bias_v add_zero_attn dropout_p "
    "out_proj_weight out_proj_bias training key_padding_mask need_weights attn_mask use_separate_proj_weight "
    "q_proj_weight k_proj_weight v_proj_weight static_k static_v average_attn_weights is_causal"
)


def _self_attention(capture: CaptureGradients, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`F.multi_head_attention_forward` of one (L, B, E) sequence with itself, as its two linear layers."""
    call = _bind(_ATTENTION, args, kwargs, training=True, need_weights=True)
    absent = ("bias_k", "bias_v", "key_padding_mask", "attn_mask", "static_k", "static_v")
    x = call["query"]
    if x is not call["key"] or x is not call["value"] or x.ndim != 3 or capture.name_of(x) is not None:
        raise NotCovered("attention between two sequences, or without a batch")
    if any(call.get(name) is not None for name in absent) or call["add_zero_attn"] or call["need_weights"]:
        raise NotCovered("attention with masks, extra keys or returned weights")
    if (call["training"] and call["dropout_p"]) or call.get("use_separate_proj_weight") or call.get("is_causal"):
        raise NotCovered("attention with dropout, separate projections or a causal mask")
    packed, uses = _linear(capture, F.linear, (x.transpose(0, 1), call["in_proj_weight"], call["in_proj_bias"]), {})
    q, k, v = packed.unflatten(2, (3, call["num_heads"], -1)).permute(2, 0, 3, 1, 4)  # (B, heads, L, E / heads) each
    mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # (B, L, E)
    z, more = _linear(capture, F.linear, (mixed, call["out_proj_weight"], call["out_proj_bias"]), {})
    return (z.transpose(0, 1), None), [*uses, *more]


_RULES: dict[str, Rule] = {
    "multi_head_attention_forward": _self_attention,
    "expand": _expand,
    "conv2d": _conv2d,
    "linear": _linear,
    "matmul": _matmul,
    "__matmul__": _matmul,
    "mm": _matmul,
    "addmm": _addmm,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "prelu": _prelu,
    **dict.fromkeys(
        ("add", "__add__", "__radd__", "sub", "__sub__", "mul", "__mul__", "__rmul__", "div", "__truediv__"),
        _arithmetic,
    ),
}
