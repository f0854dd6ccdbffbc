"""Recognising a GELU that an exporter wrote in pieces: one kernel instead of five, and a fifth of the memory."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np

from auditor.targets.onnx_graph.graph import Array, Node


def fuse_gelu(nodes: tuple[Node, ...], constants: dict[str, Array]) -> tuple[Node, ...]:
    """Replace x * (1 + erf(x / sqrt 2)) / 2, in the orders exporters write it, by one `Gelu` node.

    Pieces that nothing reads any more are left for the caller to drop.
    """
    readers: dict[str, list[Node]] = defaultdict(list)
    for node in nodes:
        for name in node.inputs:
            readers[name].append(node)
    producers = {node.outputs[0]: node for node in nodes if node.outputs}
    fused: dict[str, Node] = {}
    for erf in nodes:
        if erf.op != "Erf":
            continue
        x = _scaled(producers.get(erf.inputs[0]), constants)
        shifted = _only(readers[erf.outputs[0]], "Add")
        if x is None or shifted is None or not _is(_other(shifted, erf.outputs[0]), 1.0, constants):
            continue
        last = _last_product(x, shifted.outputs[0], readers, producers, constants)
        if last is None:
            continue
        fused[last.outputs[0]] = Node("Gelu", erf.name, (x,), last.outputs, {}, erf.opset)
    return tuple(fused.get(node.outputs[0], node) if node.outputs else node for node in nodes)


def _last_product(
    x: str, shifted: str, readers: dict[str, list[Node]], producers: dict[str, Node], constants: dict[str, Array]
) -> Node | None:
    """The node that ends a product of x, 1 + erf (`shifted`) and one half."""
    product = _only(readers[shifted], "Mul")
    if product is None:
        return None
    factor = _other(product, shifted)
    if _is_half_of(producers.get(factor), x, constants):  # (x * 0.5) * shifted
        return product
    follower = _only(readers[product.outputs[0]], "Mul")
    if follower is None:
        return None
    other = _other(follower, product.outputs[0])
    if factor == x:  # (x * shifted) * 0.5
        return follower if _is(other, 0.5, constants) else None
    return follower if _is(factor, 0.5, constants) and other == x else None  # (0.5 * shifted) * x


def _scaled(node: Node | None, constants: dict[str, Array]) -> str | None:
    """The x of x / sqrt 2."""
    if node is None or node.op not in ("Div", "Mul"):
        return None
    if node.op == "Div":
        return node.inputs[0] if _is(node.inputs[1], math.sqrt(2), constants) else None
    for name in node.inputs:
        if _is(name, math.sqrt(0.5), constants):
            return _other(node, name)
    return None


def _is_half_of(node: Node | None, x: str, constants: dict[str, Array]) -> bool:
    return node is not None and node.op == "Mul" and x in node.inputs and _is(_other(node, x), 0.5, constants)


def _only(found: list[Node], op: str) -> Node | None:
    """The one reader, if there is exactly one and it is this operator."""
    return found[0] if len(found) == 1 and found[0].op == op else None


def _other(node: Node, name: str) -> str:
    """The input of a two-input node that is not `name` (or `name`, when it is both)."""
    return node.inputs[1] if node.inputs[0] == name else node.inputs[0]


def _is(name: str, value: float, constants: dict[str, Array]) -> bool:
    array = constants.get(name)
    return array is not None and array.size == 1 and bool(np.isclose(float(array.reshape(-1)[0]), value, rtol=1e-4))
