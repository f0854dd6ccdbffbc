"""What passes at the cut of a split model, taken from the same forward pass that gives its scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from auditor.targets.onnx_graph.module import GraphModule
from auditor.targets.onnx_graph.sections import cut_values, halves

NEEDS_CUT = (
    "it protects what a device sends to a server, and this model is not cut; audit it with `--split LAYER` first, or "
    "take a defense of the whole model"
)


class CutPass:
    """Forward passes of a network that also give the features at a cut.

    Args:
        module: raw model input to (B, K); an interpreted graph is run in two halves, which share its weights.
        layer: where it is cut, as its card says: a module path, or a value name of the graph.
    """

    def __init__(self, module: nn.Module, layer: str) -> None:
        self._module, self._layer = module, layer
        self._halves = None
        if isinstance(module, GraphModule):
            self._halves = halves(module, next(cut for cut in cut_values(module) if cut.name == layer))

    def __call__(self, inputs: Tensor, disturb: Callable[[Tensor], Tensor] = Tensor.clone) -> tuple[Tensor, Tensor]:
        """Features and scores.

        Args:
            inputs: raw model input.
            disturb: what happens to the features on their way to the server; never in place.

        Returns:
            (B, ...) features as the device computes them, and (B, K) scores from the disturbed ones.
        """
        if self._halves is not None:
            encoder, tail = self._halves
            features = encoder(inputs)
            return features, tail(disturb(features))
        caught: list[Tensor] = []

        def hook(_layer: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            caught.append(output)
            return disturb(output)  # another tensor, since the next layer may work in place

        handle = self._module.get_submodule(self._layer).register_forward_hook(hook)
        try:
            scores: Tensor = self._module(inputs)
        finally:
            handle.remove()
        return caught[0], scores
