"""Taking an interpreted graph apart where a single value carries everything that follows from the input."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from auditor.targets.onnx_graph.module import GraphModule, Layout, Program, Source, Step

_PROBES = (2, 3)
"""Batch sizes that tell a batch axis from another one."""


def sections(module: GraphModule) -> tuple[GraphModule, ...]:
    """The graph in pieces whose composition is `module`; the module itself where it cannot be cut.

    A graph can be cut at a value (B, ...) of floats through which everything goes that the rest takes from the input.
    Of such values one is kept per size: the last before the picture is scaled, or, of rows without height and width,
    before their number changes. What depends on no input (a constant image, an index table) is made in the piece that
    reads it. Weights are shared with `module`.
    """
    program = module.program
    shapes = _row_shapes(module, [*_bottlenecks(program), program.result])
    cuts = [program.entry, *_worthwhile(shapes, program), program.result]
    if len(cuts) == 2:
        return (module,)
    return tuple(_section(module, start, end, shapes.get(start, program.row_shape)) for start, end in pairwise(cuts))


@dataclasses.dataclass(frozen=True)
class CutValue:
    """A value through which everything goes that the rest of a graph takes from its input.

    Attributes:
        name: its name in the ONNX graph.
        layer: path of the module that makes it; empty: no module does.
        slot: where it is kept.
        shape: without the batch axis.
    """

    name: str
    layer: str
    slot: int
    shape: tuple[int, ...]


def cut_values(module: GraphModule) -> tuple[CutValue, ...]:
    """Every value at which `halves` can cut, in order; the rest of the graph after each still has weights."""
    program = module.program
    made = {step.outputs[0]: index for index, step in enumerate(program.steps)}
    last_layer = max((index for index, step in enumerate(program.steps) if step.layer), default=-1)
    shapes = _row_shapes(module, _bottlenecks(program))
    return tuple(
        CutValue(program.steps[made[slot]].node, ".".join(program.steps[made[slot]].layer), slot, shape)
        for slot, shape in shapes.items()
        if made.get(slot, last_layer) < last_layer
    )


def halves(module: GraphModule, cut: CutValue) -> tuple[GraphModule, GraphModule]:
    """What comes before `cut`, images to (B, *cut.shape), and what follows it, to the output; weights are shared."""
    program = module.program
    before = _section(module, program.entry, cut.slot, program.row_shape)
    after = _section(module, cut.slot, program.result, cut.shape)
    before.program = dataclasses.replace(before.program, flatten=False, take_log=False)
    after.program = dataclasses.replace(after.program, layout=Layout.CHANNELS_FIRST)
    return before, after


def _reads(step: Step) -> set[int]:
    return {key for source, key in step.args if source == Source.SLOT}


def _bottlenecks(program: Program) -> list[int]:
    """Slots, in order, that alone link what comes before them to the result; neither input nor result."""
    live = {program.entry}
    for step in program.steps:
        if _reads(step) & live:
            live.update(slot for slot in step.outputs if slot >= 0)
    last_use = {slot: index for index, step in enumerate(program.steps) for slot in _reads(step)}
    last_use[program.result] = len(program.steps)
    waiting, found = {program.entry}, list[int]()
    for index, step in enumerate(program.steps):
        waiting.update(slot for slot in step.outputs if slot in live)
        waiting = {slot for slot in waiting if last_use.get(slot, -1) > index}
        if len(waiting) == 1:
            (slot,) = waiting
            if slot not in (program.entry, program.result, *found[-1:]):
                found.append(slot)
    return found


def _row_shapes(module: GraphModule, slots: Sequence[int]) -> dict[int, tuple[int, ...]]:
    """Shapes without the batch axis of those slots that have one and hold floats, in order."""
    program = module.program
    shapes: list[dict[int, tuple[int, ...]]] = []
    for batch in _PROBES if program.fixed_batch is None else (program.fixed_batch,):
        watched = {slot: torch.empty(0) for slot in slots}
        with torch.no_grad():
            module._run(torch.zeros(batch, *program.row_shape), watched)
        shapes.append(
            {
                slot: tuple(value.shape[1:])
                for slot, value in watched.items()
                if value.is_floating_point() and value.ndim and len(value) == batch
            }
        )
    return {slot: shape for slot, shape in shapes[0].items() if all(found.get(slot) == shape for found in shapes)}


def _worthwhile(shapes: dict[int, tuple[int, ...]], program: Program) -> list[int]:
    """One cut per size; none of the result's size or only reshaped into the next, and weights in every piece."""

    def size(shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape[1:] if len(shape) > 2 else (math.prod(shape),)

    kept = [slot for slot, after in pairwise(shapes) if size(shapes[slot]) != size(shapes[after])]
    values = [math.prod(shapes[slot]) for slot in (*kept, program.result)]
    kept = [slot for slot, (here, after) in zip(kept, pairwise(values), strict=True) if here != after]
    made = {slot: index for index, step in enumerate(program.steps, start=1) for slot in step.outputs}
    cuts, last = list[int](), 0
    for slot in kept:
        if all(
            any(step.layer for step in part) for part in (program.steps[last : made[slot]], program.steps[made[slot] :])
        ):
            cuts.append(slot)
            last = made[slot]
    return cuts


def _section(module: GraphModule, start: int, end: int, row_shape: tuple[int, ...]) -> GraphModule:
    """The steps from slot `start` to slot `end`, as a module of its own."""
    program, needed, wanted = module.program, [], {end}
    for step in reversed(program.steps):
        if start not in step.outputs and wanted.intersection(step.outputs):
            wanted |= _reads(step)
            needed.append(step)
    steps = tuple(reversed(needed))
    last_use = {slot: index for index, step in enumerate(steps) for slot in _reads(step)}
    last_use[end] = len(steps)
    piece = GraphModule(
        dataclasses.replace(
            program,
            steps=tuple(
                dataclasses.replace(
                    step,
                    outputs=tuple(slot if slot in last_use else -1 for slot in step.outputs),
                    free=tuple(slot for slot in _reads(step) if last_use[slot] == index),
                )
                for index, step in enumerate(steps)
            ),
            entry=start,
            result=end,
            row_shape=row_shape,
        ),
        (),
    )
    for step in steps:
        _share(module, piece, step)
    return piece.eval()


def _share(module: GraphModule, piece: GraphModule, step: Step) -> None:
    """Give `piece` the layer and the constants that `step` reads."""
    for source, key in step.args:
        if source == Source.CONSTANT:
            piece.constants.register_buffer(key, module.constants.get_buffer(key))
    parent: nn.Module = piece
    for part in step.layer[:-1]:
        if part not in parent._modules:
            parent.add_module(part, nn.Module())
        parent = parent.get_submodule(part)
    if step.layer:
        parent.add_module(step.layer[-1], module.get_submodule(".".join(step.layer)))
