"""Handing the weights of a traced graph to its layers, under readable and stable names."""

from __future__ import annotations

import re

import numpy as np
import torch
from torch import nn

from auditor.targets.onnx_graph.graph import Array
from auditor.targets.onnx_graph.module import Binding, GraphModule, Program
from auditor.targets.onnx_graph.trace import Held, Record


class PathNames:
    """Paths of submodules: the initialiser's name where it is a parameter path, else the node's name."""

    _STEM = re.compile(r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$")

    def __init__(self) -> None:
        self._taken: set[tuple[str, ...]] = set()
        self._parents: set[tuple[str, ...]] = set()
        self._reserved = frozenset(dir(nn.Module())) | {"constants", "program", "bindings", "output"}

    def fresh(self, record: Record) -> tuple[str, ...]:
        """A path for this node that no other node has, and that is no other node's prefix."""
        wanted = self._wanted(record)
        path, n = wanted, 2
        while not self._free(path):
            path, n = ("_".join(wanted) + f"_{n}",), n + 1
        self._taken.add(path)
        self._parents.update(path[:i] for i in range(1, len(path)))
        return path

    def _wanted(self, record: Record) -> tuple[str, ...]:
        for held in record.held:
            stem, _, leaf = held.value.rpartition(".")
            if leaf in ("weight", "bias") and self._STEM.match(stem):
                parts = tuple(stem.split("."))
                return tuple(f"n_{part}" if part in self._reserved else part for part in parts)
        text = re.sub(r"[^A-Za-z0-9]+", "_", record.node.name or record.identity).strip("_") or record.node.op
        return (f"n_{text}" if text in self._reserved else text,)

    def _free(self, path: tuple[str, ...]) -> bool:
        prefixes = {path[:i] for i in range(1, len(path))}
        return path not in self._taken and path not in self._parents and not prefixes & self._taken


def with_weights(
    program: Program, layers: list[tuple[tuple[str, ...], Record, nn.Module]], constants: dict[str, Array]
) -> GraphModule:
    """Give the meta-device layers their values, keep ties between matrices, and register everything under its path."""
    bindings: list[Binding] = []
    tied: dict[tuple[str, bool], nn.Parameter] = {}
    for path, record, module in layers:
        for held in record.held:
            _place(module, held, tied)
            name = ".".join((*path, held.attribute))
            bindings.append(Binding(name, held.value, held.node, held.position, held.transposed, held.buffer))
        for name, buffer in module.named_buffers():
            if buffer.is_meta:  # the batch counter of a norm, which ONNX does not keep
                module.register_buffer(name, torch.zeros(buffer.shape, dtype=buffer.dtype))
    graph_module = GraphModule(program, tuple(bindings))
    for path, _, module in layers:
        parent: nn.Module = graph_module
        for part in path[:-1]:
            child = parent._modules.get(part)
            if child is None:
                child = nn.Module()
                parent.add_module(part, child)
            parent = child
        parent.add_module(path[-1], module)
    for name, array in constants.items():
        graph_module.constants.register_buffer(name, _tensor(array))
    return graph_module.eval()


def _place(module: nn.Module, held: Held, tied: dict[tuple[str, bool], nn.Parameter]) -> None:
    owner_path, _, leaf = held.attribute.rpartition(".")
    owner = module.get_submodule(owner_path)
    key = (held.value, held.transposed)
    if held.buffer:
        owner.register_buffer(leaf, _tensor(held.array))
    elif held.array.ndim >= 2 and key in tied:
        owner.register_parameter(leaf, tied[key])
    else:
        # Exporters merge vectors that happen to be equal (zero biases, unit scales): those were never shared.
        tied[key] = nn.Parameter(_tensor(held.array.T if held.transposed else held.array))
        owner.register_parameter(leaf, tied[key])


def _tensor(array: Array) -> torch.Tensor:
    """An own, contiguous copy; floats in single precision."""
    kind = np.float32 if array.dtype.kind == "f" else array.dtype
    return torch.from_numpy(np.array(array, dtype=kind, order="C"))
