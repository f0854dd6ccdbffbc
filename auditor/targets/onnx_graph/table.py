"""The one table of operators, and what a model needs beyond it."""

from __future__ import annotations

from types import MappingProxyType

import onnx

from auditor.targets.onnx_graph import (
    activation,
    convolution,
    elementwise,
    indexing,
    layout,
    linear,
    normalization,
    pooling,
    reduction,
    resampling,
)
from auditor.targets.onnx_graph.graph import STANDARD_DOMAINS, inline_functions
from auditor.targets.onnx_graph.kernel import Operator

OPERATORS: MappingProxyType[str, Operator] = MappingProxyType(
    {
        **elementwise.TABLE,
        **activation.TABLE,
        **linear.TABLE,
        **convolution.TABLE,
        **pooling.TABLE,
        **normalization.TABLE,
        **layout.TABLE,
        **indexing.TABLE,
        **reduction.TABLE,
        **resampling.TABLE,
    }
)
"""Every operator that can be interpreted, `Constant` aside."""


def unsupported_operators(model: onnx.ModelProto) -> tuple[str, ...]:
    """Operators of `model` that cannot be interpreted, sorted, with their domain when it is not the standard one."""
    found = set()
    for node in inline_functions(model).graph.node:
        if node.domain not in STANDARD_DOMAINS:
            found.add(f"{node.domain}::{node.op_type}")
        elif node.op_type != "Constant" and node.op_type not in OPERATORS:
            found.add(node.op_type)
    return tuple(sorted(found))
