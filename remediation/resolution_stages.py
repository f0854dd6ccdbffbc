"""The stages of a network: runs of layers between which the resolution falls.

Read off the units and one run, so it holds for native networks and interpreted graphs alike: layer names and pooling
modules are not asked, since a graph has none. A stage ends in front of a unit where the number of positions falls on
the way into it (a pooling) or within it (a stride), and in front of the head. What is pooled only for a gate, and comes
back at full resolution, ends nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from math import prod

import torch
from torch import Tensor, nn

from auditor.fisher.units import Unit, evaluation_mode


def stage_ends(module: nn.Module, units: Sequence[Unit], head: str, example: Tensor) -> tuple[str, ...]:
    """Paths of the layers whose input is the output of a stage, in execution order; the last is `head`.

    Args:
        module: raw model input to (B, K) outputs; left as it was.
        units: its units.
        head: path of its last layer.
        example: (B, C, H, W) raw model input; one row is enough.
    """
    entries: dict[int, str] = {}
    sizes: dict[int, tuple[int, int]] = {}
    for path, entering, leaving in _run(module, example, _layers(module, units)):
        unit = next(index for index, unit in enumerate(units) if path in unit.modules)
        entries.setdefault(unit, path)
        sizes[unit] = (sizes.get(unit, (entering,))[0], leaving)
    run = sorted(sizes)
    falling = [*accumulate((size for unit in reversed(run) for size in reversed(sizes[unit])), max)][::-1]
    ends = [
        entries[unit]
        for index, unit in enumerate(run)
        if index > 0 and falling[2 * index - 1] > falling[2 * index + 1] and unit < len(units) - 1
    ]
    return (*ends, head)


@contextmanager
def watched_inputs(module: nn.Module, paths: Sequence[str]) -> Iterator[dict[str, list[Tensor]]]:
    """What enters the layers at `paths` while the body runs `module`: by path, one tensor a call, in order."""
    seen: dict[str, list[Tensor]] = {path: [] for path in paths}
    handles = [module.get_submodule(path).register_forward_pre_hook(partial(_note, seen[path])) for path in paths]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _note(into: list[Tensor], _layer: nn.Module, args: tuple[Tensor, ...]) -> None:
    into.append(args[0])


def _layers(module: nn.Module, units: Sequence[Unit]) -> dict[str, nn.Module]:
    """The layers that mix features and lie within one unit."""
    inside = {path for unit in units for path in unit.modules}
    return {
        path: layer
        for path, layer in module.named_modules()
        if path in inside
        and next(layer.children(), None) is None
        and any(weight.ndim >= 2 for weight in layer.parameters())
    }


def _run(module: nn.Module, example: Tensor, layers: dict[str, nn.Module]) -> list[tuple[str, int, int]]:
    """(path, positions entering, positions leaving) of every layer, in execution order."""
    seen: list[tuple[str, int, int]] = []

    def note(path: str, layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append((path, _positions(layer, args[0]), _positions(layer, output)))

    handles = [layer.register_forward_hook(partial(note, path)) for path, layer in layers.items()]
    try:
        with evaluation_mode(module), torch.no_grad():
            module(example)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _positions(layer: nn.Module, value: Tensor) -> int:
    """Positions of a row: channels come last where a linear layer reads them, else first."""
    return prod(value.shape[1:-1] if isinstance(layer, nn.Linear) else value.shape[2:])
