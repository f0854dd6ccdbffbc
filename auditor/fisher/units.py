"""A network cut into units in execution order: what can be scored, and what can be frozen, as a whole.

The rule. The network is run once on an example and every tensor operation is recorded, with the parameters and buffers
it reads. An operation is a *cut point* when everything computed after it depends on the input only through its result
(an articulation point of the data flow). The operations between two cut points form a segment: a plain
convolution, norm or activation is a segment of its own, while whatever a skip connection, a concatenation or a gate
spans is one segment (a residual block, half a transformer block, a dense block). A segment that mixes features (it
holds a convolution, a matrix product or an embedding) starts a unit; a segment that only scales, shifts or normalises
joins the unit before it. So a unit never ends between a convolution and its norm, and `units[:k]` is always a function
with one output. The rule reads the computation, not the module tree: it holds for torchvision networks and interpreted
ONNX graphs alike, and does not depend on the order in which layers were registered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_MIXING = frozenset(
    {
        "convolution", "_convolution", "mkldnn_convolution", "cudnn_convolution", "convolution_overrideable", "linear",
        "mkldnn_linear", "mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "embedding",
        "_native_multi_head_attention", "_transformer_encoder_layer_fwd",
    }
)  # fmt: skip
"""ATen operations that mix features; with a parameter among their inputs they start a unit."""


@dataclass(frozen=True)
class Unit:
    """One step of a network, in execution order.

    Attributes:
        name: module path, or the parameter's owner where no module is one unit.
        parameters: names as in `named_parameters`, in order of first use.
        buffers: names as in `named_buffers` (running statistics and the like).
        modules: paths of the modules that run entirely inside this unit; their training mode is the unit's.
        n_parameters: number of scalar parameters.
    """

    name: str
    parameters: tuple[str, ...]
    buffers: tuple[str, ...]
    modules: tuple[str, ...]
    n_parameters: int


@dataclass
class _Operation:
    """One recorded operation of the forward pass."""

    sources: set[int]
    """Indices of the operations it reads from; -1 is the input."""
    state: list[str]
    """Parameters and buffers it reads, directly or through operations on parameters only."""
    mixes: bool


@dataclass
class _Segment:
    """The operations between two cut points."""

    first: int
    state: list[str] = field(default_factory=list)
    mixes: bool = False
    starters: list[str] = field(default_factory=list)
    """State read by its mixing operations."""


def execution_units(module: nn.Module, example: Tensor) -> tuple[Unit, ...]:
    """Cut `module` into units.

    Args:
        module: raw model input to (B, K) outputs; left as it was (mode, gradients, buffers).
        example: (B, C, H, W) raw model input; one row is enough.

    Returns:
        Units in execution order. Every parameter belongs to exactly one: to the first that reads it; a parameter the
        forward pass never reads belongs to the last, which a repair never freezes.

    Raises:
        ValueError: the forward pass reads no parameter.
    """
    with evaluation_mode(module), torch.no_grad():
        recorder, output, visits = _record(module, example)
    segments = _segments(recorder.operations, recorder.producer(output))
    if not any(segment.mixes for segment in segments):
        raise ValueError("the network reads no weight on its way from input to output")
    groups = _merge(segments)
    return _describe(module, groups, visits)


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Run the body with `module` in evaluation mode, then put every submodule's mode back."""
    before = {submodule: submodule.training for submodule in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for submodule, training in before.items():
            submodule.training = training


class _Recorder(TorchDispatchMode):
    """Records which operation reads which; keeps every tensor alive so that identities stay distinct."""

    def __init__(self, state: dict[int, str], example: Tensor) -> None:
        super().__init__()
        self.operations: list[_Operation] = []
        self._state = {key: [name] for key, name in state.items()}
        self._producer = {id(example): -1}
        self._alive: list[Any] = [example]

    def producer(self, value: Any) -> int:
        """Index of the operation that made the first tensor in `value`."""
        for leaf in tree_leaves(value):
            if isinstance(leaf, Tensor) and id(leaf) in self._producer:
                return self._producer[id(leaf)]
        raise ValueError("the output does not depend on the input")

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        read = [leaf for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, Tensor)]
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self._alive += [*read, *made]
        sources = {self._producer[id(leaf)] for leaf in read if id(leaf) in self._producer}
        state = list(dict.fromkeys(name for leaf in read for name in self._state.get(id(leaf), [])))
        if sources:
            mixes = bool(state) and func.overloadpacket.__name__ in _MIXING
            self.operations.append(_Operation(sources, state, mixes))
            for leaf in made:
                self._producer[id(leaf)] = len(self.operations) - 1
        elif state:
            for leaf in made:
                self._state.setdefault(id(leaf), state)
        return result


def _record(module: nn.Module, example: Tensor) -> tuple[_Recorder, Any, dict[str, int]]:
    """Run once; also note at which operation each leaf module was first entered."""
    state = {id(value): name for name, value in (*module.named_parameters(), *module.named_buffers())}
    recorder = _Recorder(state, example)
    visits: dict[str, int] = {}

    def visit(path: str) -> Callable[..., None]:
        def note(*_: Any) -> None:
            visits.setdefault(path, len(recorder.operations))

        return note

    handles = [
        submodule.register_forward_pre_hook(visit(path))
        for path, submodule in module.named_modules()
        if path and next(submodule.children(), None) is None
    ]
    try:
        with recorder:
            output = module(example)
    finally:
        for handle in handles:
            handle.remove()
    return recorder, output, visits


def _segments(operations: list[_Operation], last: int) -> list[_Segment]:
    """Split the operations on a path from input to output at the cut points."""
    live, wanted = [False] * len(operations), {last}
    for index in range(last, -1, -1):
        if index in wanted:
            live[index] = True
            wanted |= operations[index].sources
    last_reader: dict[int, int] = {}
    for index, operation in enumerate(operations):
        if live[index]:
            last_reader |= dict.fromkeys(operation.sources, index)
    segments, current, reach = [], None, last_reader.get(-1, 0)
    for index, operation in enumerate(operations):
        if not live[index]:
            continue
        current = current or _Segment(index)
        current.state += operation.state
        if operation.mixes:
            current.mixes = True
            current.starters += operation.state
        if reach <= index:  # nothing made earlier is read later: a cut point
            segments.append(current)
            current = None
        reach = max(reach, last_reader.get(index, 0))
    return segments


def _merge(segments: list[_Segment]) -> list[_Segment]:
    """One group per mixing segment; the others join the group before them, or the first group when there is none."""
    groups: list[_Segment] = []
    leading: list[str] = []
    seen: set[str] = set()
    for segment in segments:
        if segment.mixes and not seen.issuperset(segment.starters):  # a layer applied again starts nothing new
            groups.append(_Segment(segment.first, leading + segment.state, True, segment.starters))
            leading = []
        elif groups:
            groups[-1].state += segment.state
        else:
            leading += segment.state
        seen.update(segment.state)
    groups[0].first = 0
    return groups


def _describe(module: nn.Module, groups: list[_Segment], visits: dict[str, int]) -> tuple[Unit, ...]:
    sizes = {name: value.numel() for name, value in module.named_parameters()}
    owner: dict[str, int] = {}
    for index, group in enumerate(groups):
        for name in group.state:
            owner.setdefault(name, index)
    for name in sizes:
        owner.setdefault(name, len(groups) - 1)
    homes = {name.rpartition(".")[0]: index for name, index in owner.items()}
    for name, _ in module.named_buffers():  # counters and the like, which evaluation does not read
        home = name.rpartition(".")[0]
        if home in homes:
            owner.setdefault(name, homes[home])
    by_home: dict[str, list[str]] = {}
    for name, _ in (*module.named_parameters(), *module.named_buffers()):
        by_home.setdefault(name.rpartition(".")[0], []).append(name)
    names = _names(groups, owner)
    modules = _modules(module, groups, owner, visits)
    units = []
    for index, name in enumerate(names):
        order = dict.fromkeys(name.rpartition(".")[0] for name in (*groups[index].state, *owner))
        mine = [entry for home in order for entry in by_home[home] if owner.get(entry) == index]
        parameters = tuple(entry for entry in mine if entry in sizes)
        buffers = tuple(entry for entry in mine if entry not in sizes)
        units.append(Unit(name, parameters, buffers, modules[index], sum(sizes[entry] for entry in parameters)))
    return tuple(units)


def _names(groups: list[_Segment], owner: dict[str, int]) -> list[str]:
    """The common module path of a unit's weights where no other unit shares it, else the owner of its first weight."""
    names: list[str] = []
    for index, group in enumerate(groups):
        weights = [name for name in group.starters if owner[name] == index] or group.starters
        paths = [name.split(".")[:-1] or [name] for name in weights]
        shared = ".".join(
            parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))
        )
        inside = {owner[name] for name in owner if name.startswith(shared + ".")} if shared else set()
        names.append(shared if inside == {index} or len(weights) == 1 else ".".join(paths[0]))
    for index, name in enumerate(names):
        if names.index(name) != index:
            names[index] = f"{name}#{names[:index].count(name) + 1}"
    return names


def _modules(
    module: nn.Module, groups: list[_Segment], owner: dict[str, int], visits: dict[str, int]
) -> list[tuple[str, ...]]:
    """Modules whose whole state, or, for those without any, whose one run lies in a unit."""
    inside: list[list[str]] = [[] for _ in groups]
    for path, submodule in module.named_modules():
        if not path:
            continue
        state = [name for name, _ in (*submodule.named_parameters(), *submodule.named_buffers())]
        places = {owner[f"{path}.{name}"] for name in state if f"{path}.{name}" in owner}
        if not places and path in visits:
            places = {max([i for i, group in enumerate(groups) if group.first <= visits[path]], default=0)}
        if len(places) == 1:
            inside[places.pop()].append(path)
    return [tuple(paths) for paths in inside]
