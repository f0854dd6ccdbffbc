"""A target cut in two for split inference: the device computes the first part, a server the rest.

A cut is valid only where all later computation depends on the image through that one tensor. For torch modules this is
read off the graph of derivatives: without the layer's output, no path leads from the scores back to the image. For
interpreted ONNX graphs it is read off the program.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from auditor.contracts.access import Access
from auditor.contracts.submission import SplitPoint, TargetCard
from auditor.errors import UnknownName, UnsupportedModel
from auditor.targets.base import Target
from auditor.targets.onnx_graph.module import GraphModule
from auditor.targets.onnx_graph.sections import cut_values, halves
from auditor.targets.preprocess import Preprocess

_PROBES = (2, 3)
"""Batch sizes that tell a batch axis from another one."""

Half = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class CutPoint:
    """Where a model can be cut.

    Attributes:
        name: module path, or value name of an ONNX graph.
        aliases: other names of the same place.
        shape: of what passes there for one image, without the batch axis.
    """

    name: str
    aliases: tuple[str, ...]
    shape: tuple[int, ...]


class SplitTarget:
    """Both parts of a target.

    Attributes:
        point: where it is cut.
        n_classes: K.
        image_shape: (C, H, W).
    """

    def __init__(self, target: Target, point: CutPoint, encoder: Half, tail: Half, device: torch.device) -> None:
        self.point = point
        self.n_classes = target.n_classes
        self.image_shape = target.image_shape
        self._preprocess = Preprocess(target.card.input).to(device)
        self._encoder, self._tail, self._device = encoder, tail, device

    def encode(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] to (B, *point.shape) float32, differentiable with respect to the images."""
        return self._encoder(self._preprocess(images.to(self._device))).float()

    def tail(self, features: Tensor) -> Tensor:
        """(B, *point.shape) to (B, K) logits or log-probabilities, differentiable with respect to the features."""
        return self._tail(features.to(self._device)).float()


def cut_points(target: Target) -> tuple[CutPoint, ...]:
    """Every place where `target` can be cut, in execution order; the output itself is none.

    Raises:
        UnsupportedModel: the target is score-level only, so that nothing inside it can be reached.
    """
    return module_cuts(_module_of(target), target.image_shape)


def module_cuts(module: nn.Module, input_shape: tuple[int, int, int]) -> tuple[CutPoint, ...]:
    """The same of a network in evaluation mode, from (B, *input_shape) raw model input to scores."""
    if isinstance(module, GraphModule):
        return tuple(
            CutPoint(cut.name, (cut.layer,) if cut.layer not in ("", cut.name) else (), cut.shape)
            for cut in cut_values(module)
        )
    return _traced_cuts(module, input_shape)


def split_at(target: Target, layer: str) -> SplitTarget:
    """`target` cut at `layer`, by its name or an alias.

    Raises:
        UnsupportedModel: as `cut_points`.
        UnknownName: no cut of that name; the possible ones are listed.
    """
    points = cut_points(target)
    found = [point for point in points if layer == point.name] or [p for p in points if layer in p.aliases]
    if not found:
        raise _unknown(layer, points)
    return cut_at(target, found[0])


def cut_at(target: Target, point: CutPoint) -> SplitTarget:
    """`target` cut at one of its `cut_points`."""
    module = _module_of(target)
    encoder, tail = module_halves(module, point, target.image_shape)
    return SplitTarget(target, point, encoder, tail, _device_of(module))


def module_halves(module: nn.Module, point: CutPoint, input_shape: tuple[int, int, int]) -> tuple[Half, Half]:
    """Raw model input to what passes at one of the `module_cuts`, and from there to the scores; weights are shared.

    The network has to be in evaluation mode here, and may be in any mode when its halves are run.
    """
    if isinstance(module, GraphModule):
        return halves(module, next(cut for cut in cut_values(module) if cut.name == point.name))
    n_blank = 1 if _one_blank_is_enough(module, point, input_shape) else None
    return partial(_run_to, module, point.name), partial(_run_from, module, point.name, input_shape, n_blank)


def with_split(card: TargetCard, split: SplitTarget) -> TargetCard:
    """The card of a target that is audited as cut at `split`."""
    access = tuple(level for level in Access if level in (*card.access, Access.SPLIT))
    point = SplitPoint(layer=split.point.name, shape=split.point.shape)
    return card.model_copy(update={"access": access, "split": point})


def _module_of(target: Target) -> nn.Module:
    if target.module is None:
        operators = ", ".join(target.card.unsupported_operators)
        raise UnsupportedModel(
            "the model cannot be cut: only its scores can be had"
            + (f" (operators that cannot be differentiated: {operators})" if operators else "")
        )
    return target.module


def _device_of(module: nn.Module) -> torch.device:
    return next((tensor.device for tensor in (*module.parameters(), *module.buffers())), torch.device("cpu"))


def _unknown(layer: str, points: tuple[CutPoint, ...]) -> UnknownName:
    names = [point.name for point in points]
    if not names:
        return UnknownName(f"cannot cut at '{layer}': no layer of this model carries all that follows from the image")
    close = difflib.get_close_matches(layer, names, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return UnknownName(
        f"cannot cut at '{layer}'.{hint} Possible: {', '.join(names)}.", remedy="Name one of the listed layers."
    )


class _Reached(Exception):
    """Ends a forward pass early."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = features


@contextmanager
def _hooked(layer: nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    handle = layer.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _run_to(module: nn.Module, path: str, inputs: Tensor) -> Tensor:
    """The output of the submodule at `path`; nothing after it is computed."""

    def stop(_layer: nn.Module, _inputs: Any, output: Tensor) -> None:
        raise _Reached(output)

    try:
        with _hooked(module.get_submodule(path), stop):
            module(inputs)
    except _Reached as reached:
        return reached.features
    raise ValueError(f"the forward pass does not reach '{path}'")


def _run_from(
    module: nn.Module, path: str, input_shape: tuple[int, int, int], n_blank: int | None, features: Tensor
) -> Tensor:
    """The scores with `features` in place of the output at `path`; what comes before runs on `n_blank` blank pictures.

    None: on as many as there are rows of features, where a network remembers their number across the cut.
    """
    blank = torch.zeros(len(features) if n_blank is None else n_blank, *input_shape, device=features.device)
    # a copy, since the next layer may work in place
    with _hooked(module.get_submodule(path), lambda _layer, _inputs, _output: features.clone()):
        scores: Tensor = module(blank)
    return scores


@torch.no_grad()
def _one_blank_is_enough(module: nn.Module, point: CutPoint, input_shape: tuple[int, int, int]) -> bool:
    features = torch.rand(_PROBES[0], *point.shape, generator=torch.Generator().manual_seed(0)).to(_device_of(module))
    wanted = _run_from(module, point.name, input_shape, None, features)
    try:
        found = _run_from(module, point.name, input_shape, 1, features)
    except (RuntimeError, ValueError, IndexError):
        return False
    return torch.equal(wanted, found)


@dataclass
class _Visit:
    """What a submodule gave back in one forward pass."""

    output: Any
    node: Any
    """The node of the graph of derivatives that made it, as of then: a later layer may write over the tensor."""
    n_calls: int = 1


def _traced_cuts(module: nn.Module, image_shape: tuple[int, int, int]) -> tuple[CutPoint, ...]:
    traces = [_trace(module, image_shape, batch) for batch in _PROBES]
    visits, output, image = traces[0]
    names: dict[Any, list[str]] = {}
    for path, visit in visits.items():
        shapes = [_row_shape(trace[0].get(path), batch) for trace, batch in zip(traces, _PROBES, strict=True)]
        usable = shapes[0] is not None and shapes[0] == shapes[1] and visit.node is not output.grad_fn
        if usable and not _reaches(output.grad_fn, image, without=visit.node):
            names.setdefault(visit.node, []).append(path)
    points = []
    for paths in names.values():
        first, *others = sorted(paths, key=len)
        points.append(CutPoint(first, tuple(others), tuple(visits[first].output.shape[1:])))
    return tuple(points)


def _trace(
    module: nn.Module, image_shape: tuple[int, int, int], batch: int
) -> tuple[dict[str, _Visit], Tensor, Tensor]:
    """Visits by path in execution order, the scores, and the image, which carries a gradient."""
    visits: dict[str, _Visit] = {}

    def note(path: str, _layer: nn.Module, _inputs: Any, output: Any) -> None:
        if path in visits:
            visits[path].n_calls += 1
        else:
            visits[path] = _Visit(output, output.grad_fn if isinstance(output, Tensor) else None)

    handles = [layer.register_forward_hook(partial(note, path)) for path, layer in module.named_modules() if path]
    image = torch.full((batch, *image_shape), 0.5, device=_device_of(module)).requires_grad_(True)
    try:
        with torch.enable_grad():
            output: Tensor = module(image)
    finally:
        for handle in handles:
            handle.remove()
    return visits, output, image


def _row_shape(visit: _Visit | None, batch: int) -> tuple[int, ...] | None:
    """The shape of one row; None where the module gave no rows, nothing that follows from the image, or ran twice."""
    if visit is None or visit.node is None or visit.n_calls > 1 or not visit.output.is_floating_point():
        return None
    shape = tuple(visit.output.shape)
    return shape[1:] if len(shape) > 1 and shape[0] == batch else None


def _reaches(start: Any, image: Tensor, *, without: Any) -> bool:
    """Whether the graph of derivatives leads from `start` to `image` along a path that avoids the node `without`."""
    waiting, seen = [start], {start, without}
    while waiting:
        node = waiting.pop()
        if getattr(node, "variable", None) is image:
            return True
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)
    return False
