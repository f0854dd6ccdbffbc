"""The runnable form of an ONNX graph: native layers for nodes with weights, plain functions for the others."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from auditor.contracts.submission import Output
from auditor.targets.onnx_graph.graph import Array
from auditor.targets.onnx_graph.kernel import Kernel

_CACHED_BATCH_SIZES = 32


@dataclass(frozen=True)
class Binding:
    """Which constant of the graph a parameter or buffer of the module came from.

    Attributes:
        parameter: its name in the module's state dict.
        value: name of the constant in the graph.
        node: first output of the node that reads it.
        position: which input of that node.
        transposed: the module holds the matrix transposed.
        buffer: a statistic, not a trained parameter.
    """

    parameter: str
    value: str
    node: str
    position: int
    transposed: bool = False
    buffer: bool = False


class Layout(StrEnum):
    """How a graph reads images; the module always takes (B, C, H, W)."""

    CHANNELS_FIRST = "channels-first"
    CHANNELS_LAST = "channels-last"
    """(B, H, W, C), as TensorFlow exports."""
    FLAT = "flat"
    """Reshaped to the graph's row shape, e.g. (B, C*H*W)."""


class Source(IntEnum):
    """Where a step takes an argument from."""

    SLOT = 0
    """An intermediate value."""
    CONSTANT = 1
    """A buffer of the module, by name."""
    FIXED = 2
    """A host array, or None."""
    PER_BATCH = 3
    """A host array that depends on the batch size, by index."""
    PER_BATCH_TENSOR = 4
    """The same, wanted on the device."""


@dataclass(frozen=True)
class Step:
    """One node to run.

    Attributes:
        op: operator type.
        node: the ONNX node's first output.
        kernel: what to call, when the node has no weights.
        layer: path of the submodule to call instead.
        args: where each argument comes from.
        outputs: slot of each output; -1 when nothing reads it.
        free: slots read here for the last time.
        placed: the kernel makes its output on the CPU; move it.
    """

    op: str
    node: str
    kernel: Kernel | None
    layer: tuple[str, ...]
    args: tuple[tuple[Source, Any], ...]
    outputs: tuple[int, ...]
    free: tuple[int, ...]
    placed: bool = False


@dataclass(frozen=True)
class BatchValue:
    """A host array that is linear in the batch size B: `offset + slope * B`; no slope: it stays the same."""

    offset: Array
    slope: Array | None

    def at(self, batch: int) -> Array:
        """The array for `batch` rows."""
        return self.offset if self.slope is None else self.offset + self.slope * batch


@dataclass(frozen=True)
class Program:
    """Everything but the weights.

    Attributes:
        steps: in execution order.
        n_slots: intermediate values.
        result: slot of the output.
        batch_values: host arrays that depend on the batch size.
        row_shape: input shape without the batch axis, as the graph reads it.
        layout: how the graph reads its images.
        fixed_batch: the only batch size the graph runs at; None: any.
        output: what comes out.
        flatten: turn the output into (B, F).
        take_log: the graph gives probabilities by other means than a final softmax: take their logarithm.
        notes: remarks for the card.
        entry: slot of the input.
    """

    steps: tuple[Step, ...]
    n_slots: int
    result: int
    batch_values: tuple[BatchValue, ...]
    row_shape: tuple[int, ...]
    layout: Layout
    fixed_batch: int | None
    output: Output
    flatten: bool
    take_log: bool = False
    notes: tuple[str, ...] = ()
    entry: int = 0


def arranged(images: Tensor, layout: Layout, row_shape: tuple[int, ...]) -> Tensor:
    """(B, C, H, W) images as the graph reads them."""
    if layout is Layout.CHANNELS_LAST:
        return images.movedim(1, -1)
    return images.reshape(len(images), *row_shape) if layout is Layout.FLAT else images


class KernelLayer(nn.Module):
    """A node without a native module whose constant inputs are parameters: `weight`, then `weight_1`, by position."""

    def __init__(self, kernel: Kernel, positions: dict[int, str]) -> None:
        super().__init__()
        self.kernel = kernel
        self.positions = positions

    def forward(self, *args: Any) -> Any:
        """The node's inputs in order, with None where a parameter belongs."""
        filled = list(args)
        for position, name in self.positions.items():
            filled[position] = getattr(self, name)
        return self.kernel(*filled)


class GraphModule(nn.Module):
    """An ONNX graph as a differentiable module: raw model input (B, *row_shape) to (B, F).

    Nodes with trained constants are submodules in execution order: `nn.Conv2d`, `nn.Linear`, `nn.BatchNorm2d`,
    `nn.LayerNorm` where the node's form allows, else `KernelLayer`; named after the initialiser (`layer1.0.conv1` of
    `layer1.0.conv1.weight`) or, where the exporter made that name up, after the node. `bindings` tells which constant
    each parameter came from. Everything that depends on shapes alone was worked out when the graph was read, so a
    forward pass runs the same kernels as a native module. Values are dropped after their last use.

    Works under `copy.deepcopy`, `torch.func.functional_call`, `vmap` and autocast.
    """

    def __init__(self, program: Program, bindings: tuple[Binding, ...]) -> None:
        super().__init__()
        self.program = program
        self.bindings = bindings
        self.constants = nn.Module()
        self._per_batch: OrderedDict[int, list[Array]] = OrderedDict()

    @property
    def output(self) -> Output:
        """What the *submitted* graph gives. This module gives log-probabilities where that is probabilities."""
        return self.program.output

    def read_as_probabilities(self) -> None:
        """Declare that the scores are probabilities although the graph ends in no softmax; logarithms come out."""
        self.program = dataclasses.replace(self.program, output=Output.PROBABILITIES, take_log=True)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, *row_shape) to (B, F); images always (B, C, H, W)."""
        inputs = arranged(inputs, self.program.layout, self.program.row_shape)
        if tuple(inputs.shape[1:]) != self.program.row_shape:
            raise ValueError(f"the graph takes rows of shape {self.program.row_shape}, got {tuple(inputs.shape[1:])}")
        size = self.program.fixed_batch
        if size is None or len(inputs) == size:
            return self._run(inputs)
        parts = []
        for chunk in inputs.split(size):
            missing = size - len(chunk)
            if missing:
                padding = chunk[:1].detach().expand(missing, *chunk.shape[1:])
                parts.append(self._run(torch.cat([chunk, padding]))[: len(chunk)])
            else:
                parts.append(self._run(chunk))
        return torch.cat(parts)

    def _run(self, inputs: Tensor, watched: dict[int, Tensor] | None = None) -> Tensor:
        """The program on rows of the right number; empty copies of the slots in `watched` are put there."""
        program = self.program
        slots: list[Any] = [None] * program.n_slots
        slots[program.entry] = inputs
        host = self._host(inputs.shape[0])
        constants = self.constants._buffers
        for step in program.steps:
            args = []
            for source, key in step.args:
                if source == Source.SLOT:
                    args.append(slots[key])
                elif source == Source.CONSTANT:
                    args.append(constants[key])
                elif source == Source.FIXED:
                    args.append(key)
                elif source == Source.PER_BATCH:
                    args.append(host[key])
                else:
                    args.append(torch.as_tensor(host[key], device=inputs.device))
            call: Any = step.kernel
            if call is None:
                call = self
                for part in step.layer:
                    call = call._modules[part]
            result = call(*args)
            if step.placed:
                result = result.to(inputs.device)
            for slot in step.free:
                slots[slot] = None
            if len(step.outputs) == 1:
                slots[step.outputs[0]] = result[0] if isinstance(result, tuple) else result
            else:
                for slot, value in zip(step.outputs, result, strict=False):
                    if slot >= 0:
                        slots[slot] = value
            if watched is not None:
                watched.update({slot: slots[slot].to("meta") for slot in step.outputs if slot in watched})
        out: Tensor = slots[program.result]
        if program.flatten and out.ndim != 2:
            out = out.flatten(1)
        return out.clamp_min(torch.finfo(out.dtype).tiny).log() if program.take_log else out

    def _host(self, batch: int) -> list[Array]:
        """The host arrays for `batch` rows, remembered for the batch sizes used last."""
        if not self.program.batch_values:  # then a compiled pass need not ask for the size
            return []
        found = self._per_batch.get(batch)
        if found is None:
            found = [np.asarray(value.at(batch)) for value in self.program.batch_values]
            self._per_batch[batch] = found
            if len(self._per_batch) > _CACHED_BATCH_SIZES:
                self._per_batch.popitem(last=False)
        return found
