"""Matrix products. With a constant matrix they become `nn.Linear`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from auditor.targets.onnx_graph.graph import Node
from auditor.targets.onnx_graph.kernel import Kernel, Layer, Operator, Slot, Value, operator, rank


def _gemm(node: Node, args: Sequence[Value]) -> Kernel:
    alpha, beta = float(node.get("alpha", 1.0)), float(node.get("beta", 1.0))
    flip_a, flip_b = bool(node.get("transA", 0)), bool(node.get("transB", 0))

    def gemm(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        product = (a.t() if flip_a else a) @ (b.t() if flip_b else b)
        product = product if alpha == 1 else alpha * product
        if c is None:
            return product
        return product + (c if beta == 1 else beta * c)

    return gemm


def _gemm_layer(node: Node, args: Sequence[Value], constant: Sequence[bool]) -> Layer | None:
    weight = args[1]
    bias = args[2] if len(args) > 2 else None
    plain_form = node.get("alpha", 1.0) == 1 and node.get("beta", 1.0) == 1 and not node.get("transA", 0)
    if not plain_form or constant[0] or not constant[1] or weight is None or rank(weight) != 2:
        return None
    transposed = not node.get("transB", 0)
    outputs, inputs = (weight.shape[1], weight.shape[0]) if transposed else weight.shape
    if bias is not None and (not constant[2] or tuple(bias.shape) != (outputs,)):
        return None
    module = nn.Linear(inputs, outputs, bias=bias is not None, device="meta")
    slots = (Slot("weight", 1, transposed),) + ((Slot("bias", 2),) if bias is not None else ())
    return Layer(module, slots)


def _matmul_layer(node: Node, args: Sequence[Value], constant: Sequence[bool]) -> Layer | None:
    """`x @ W`; a bias added right after is joined to it by the builder, as an input at position 2."""
    weight = args[1]
    if constant[0] or not constant[1] or weight is None or rank(weight) != 2 or rank(args[0]) < 2:
        return None
    bias = len(args) > 2
    module = nn.Linear(weight.shape[0], weight.shape[1], bias=bias, device="meta")
    return Layer(module, (Slot("weight", 1, transposed=True),) + ((Slot("bias", 2),) if bias else ()))


def _einsum(node: Node, args: Sequence[Value]) -> Kernel:
    equation = str(node.get("equation")).replace(" ", "")
    return lambda *operands: torch.einsum(equation, *operands)


TABLE: dict[str, Operator] = {
    "Gemm": operator(_gemm, weights=(1, 2), layer=_gemm_layer),
    "MatMul": operator(lambda _node, _args: torch.matmul, weights=(0, 1), layer=_matmul_layer),
    "Einsum": operator(_einsum, weights=(0, 1, 2, 3)),
}
