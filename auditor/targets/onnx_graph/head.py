"""Recognising what a classifier graph ends in, so that gradients live and scores are read right."""

from __future__ import annotations

import dataclasses

from auditor.contracts.submission import Output
from auditor.targets.onnx_graph.graph import Node

_TRANSPARENT = frozenset({"Identity", "Flatten", "Reshape", "Squeeze", "Cast", "Dropout"})

_SIGMOID_NOTE = (
    "the graph ends in a sigmoid per class (independent labels); the auditor reads the values before it as logits"
)


def reveal_logits(nodes: tuple[Node, ...], output: str) -> tuple[tuple[Node, ...], Output, tuple[str, ...]]:
    """Replace a final softmax by its logarithm and drop a final sigmoid.

    A softmax output saturates: its gradients vanish exactly where an attack succeeds. The logarithm carries the same
    information without that.

    Returns:
        The nodes, what the submitted graph gives, and remarks.
    """
    producers = {name: index for index, node in enumerate(nodes) for name in node.outputs if name}
    index = producers.get(output)
    while index is not None and nodes[index].op in _TRANSPARENT:
        index = producers.get(nodes[index].inputs[0])
    if index is None:
        return nodes, Output.LOGITS, ()
    last = nodes[index]
    if last.op == "LogSoftmax":
        return nodes, Output.LOG_PROBABILITIES, ()
    if last.op == "Softmax":
        return _replaced(nodes, index, "LogSoftmax"), Output.PROBABILITIES, ()
    if last.op == "Sigmoid":
        return _replaced(nodes, index, "Identity"), Output.LOGITS, (_SIGMOID_NOTE,)
    return nodes, Output.LOGITS, ()


def _replaced(nodes: tuple[Node, ...], index: int, op: str) -> tuple[Node, ...]:
    return (*nodes[:index], dataclasses.replace(nodes[index], op=op), *nodes[index + 1 :])
