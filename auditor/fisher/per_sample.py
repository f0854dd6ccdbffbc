"""Squared per-sample gradients, summed per unit, without ever holding a parameter-sized array per sample for long.

The square of a batch's mean gradient is not the mean of the squares, so each sample's gradient must be squared before
anything is averaged. Three engines give the same numbers (tests compare them):

- `layerwise`: one forward pass; for each wanted output cotangent one backward pass to the layer outputs only; then each
  layer's squares from its input and its output gradients (`layer_rules`, `weight_squares`).
- `functional`: vmap over grad (torch.func), for networks with an operation that has no layer rule.
- `loop`: one sample at a time, for networks that vmap cannot trace. It is the oracle.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from auditor.data.checkpoint import resumable
from auditor.errors import AuditorError
from auditor.fisher.layer_rules import CaptureGradients, NotCovered
from auditor.fisher.units import Unit, evaluation_mode
from auditor.tensors import RunContext

Engine = Literal["layerwise", "functional", "loop"]
Cotangents = Callable[[Tensor, Tensor], Iterable[Tensor]]
"""(B, K) outputs and (B,) row numbers to (B, K) output gradients; squares are summed over the iterable."""

_FUNCTIONAL_BYTES = 256 << 20
_AGREEMENT = 2e-3
"""Relative difference to the oracle above which the layer rules are not trusted for this network."""


@dataclass(frozen=True)
class UnitSquares:
    """Per-sample squared gradients by unit, on the CPU.

    Attributes:
        squared: (N, U) float64, sum over the unit of g^2.
        relative: (N, U) float64, sum over the unit of theta^2 g^2.
    """

    squared: Tensor
    relative: Tensor

    def select(self, rows: Tensor) -> UnitSquares:
        """The rows at `rows` (bool or int64)."""
        return UnitSquares(self.squared[rows], self.relative[rows])

    @property
    def finite(self) -> Tensor:
        """(N,) bool: rows without infinity or NaN."""
        return torch.isfinite(self.squared).all(dim=1) & torch.isfinite(self.relative).all(dim=1)


class SquaredGradients:
    """Scores samples against a fixed network; the network is left as it was, whatever `requires_grad` says.

    Args:
        module: raw model input to (B, K) outputs.
        units: from `execution_units`.
        rows: samples per batch; the last batch is padded, so every batch has this size and results do not depend on it.
        engine: None picks `layerwise`, checks it against the oracle on two samples, and falls back.
        prepare: one batch of images to raw model input; default: they are.
    """

    def __init__(
        self,
        module: nn.Module,
        units: Sequence[Unit],
        *,
        rows: int,
        engine: Engine | None = None,
        prepare: Callable[[Tensor], Tensor] = lambda images: images,
    ) -> None:
        self.module = module
        self.rows = rows
        self.engine: Engine | None = engine
        self.n_units = len(units)
        self._prepare = prepare
        self._unit_of = {name: index for index, unit in enumerate(units) for name in unit.parameters}
        self._parameters = {name: value.detach() for name, value in module.named_parameters()}
        self._buffers = dict(module.named_buffers())
        n_bytes = sum(value.numel() * value.element_size() for value in self._parameters.values())
        self._functional_rows = max(1, _FUNCTIONAL_BYTES // max(1, n_bytes))

    def __call__(self, images: Tensor, cotangents: Cotangents, ctx: RunContext, *, stage: str) -> UnitSquares:
        """Score (N, C, H, W) images batch by batch.

        A call that was stopped goes on behind the last batch it wrote to `ctx.unfinished`, under the name `stage`.
        """
        scored = _Scored(self, len(images))
        steps = -(-len(images) // self.rows)
        with evaluation_mode(self.module):
            for step in resumable(ctx, stage, steps, {"scored": scored}, torch.Generator()):
                start = step * self.rows
                index = torch.arange(start, start + self.rows).clamp(max=len(images) - 1)
                squares = self._batch(self._prepare(images[index]), index, cotangents)
                scored.squares[:, start : start + self.rows] = squares[:, : len(images) - start].cpu()
        return UnitSquares(scored.squares[0], scored.squares[1])

    def _batch(self, x: Tensor, index: Tensor, cotangents: Cotangents) -> Tensor:
        if self.engine is None:
            with torch.no_grad():
                usable = torch.isfinite(self.module(x)).all(dim=1).nonzero().flatten()
            if not len(usable):
                return x.new_full((2, len(x), self.n_units), torch.nan, dtype=torch.float64)
            self.engine = self._choose(x, index, cotangents, usable[[0, -1]].cpu())
        return getattr(self, f"_{self.engine}")(x, index, cotangents)  # type: ignore[no-any-return]

    def _choose(self, x: Tensor, index: Tensor, cotangents: Cotangents, rows: Tensor) -> Engine:
        """The fastest engine that agrees with the oracle on `rows` of this batch."""
        oracle = self._loop(x[rows], index[rows], cotangents)
        scale = oracle.sum(dim=2, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
        engines: tuple[Engine, ...] = ("layerwise", "functional") if self._functional_rows > 3 else ("layerwise",)
        for engine in engines:
            try:
                squares = getattr(self, f"_{engine}")(x, index, cotangents)[:, rows]
            except (NotCovered, RuntimeError, NotImplementedError):
                continue
            if bool((((squares - oracle).abs() / scale) <= _AGREEMENT).all()):
                return engine
        return "loop"

    def _layerwise(self, x: Tensor, index: Tensor, cotangents: Cotangents) -> Tensor:
        """(2, B, U): squared and relative."""
        total = x.new_zeros(2, len(x), self.n_units, dtype=torch.float64)
        with CaptureGradients({id(value): name for name, value in self.module.named_parameters()}) as capture:
            outputs = self.module(x.detach().requires_grad_())
        wanted = [cotangent.to(outputs.dtype) for cotangent in cotangents(outputs.detach().float(), index)]
        for name, sums in capture.reduce(outputs, wanted):
            total[:, :, self._unit_of[name]] += sums
        return total

    def _functional(self, x: Tensor, index: Tensor, cotangents: Cotangents) -> Tensor:
        def weighted_output(parameters: dict[str, Tensor], row: Tensor, cotangent: Tensor) -> Tensor:
            outputs = functional_call(self.module, (parameters, self._buffers), (row[None],))
            return (outputs[0] * cotangent).sum()  # type: ignore[no-any-return]

        per_sample = vmap(grad(weighted_output), in_dims=(None, 0, 0))
        total = x.new_zeros(2, len(x), self.n_units, dtype=torch.float64)
        with torch.no_grad():
            outputs = self.module(x)
        for cotangent in cotangents(outputs.float(), index):
            for start in range(0, len(x), self._functional_rows):
                rows = slice(start, start + self._functional_rows)
                with warnings.catch_warnings():  # vmap announces every operation it runs row by row
                    warnings.simplefilter("ignore", UserWarning)
                    found = per_sample(self._parameters, x[rows], cotangent[rows].to(outputs.dtype))
                self._add(total[:, rows], found)
        return total

    def _loop(self, x: Tensor, index: Tensor, cotangents: Cotangents) -> Tensor:
        total = x.new_zeros(2, len(x), self.n_units, dtype=torch.float64)
        leaves = {name: value.clone().requires_grad_() for name, value in self._parameters.items()}
        for row in range(len(x)):
            outputs = functional_call(self.module, (leaves, self._buffers), (x[row : row + 1],))
            for cotangent in cotangents(outputs.detach().float(), index[row : row + 1]):
                gradients = torch.autograd.grad(
                    outputs, list(leaves.values()), cotangent.to(outputs.dtype), retain_graph=True, allow_unused=True
                )
                found = {name: g[None] for name, g in zip(leaves, gradients, strict=True) if g is not None}
                self._add(total[:, row : row + 1], found)
        return total

    def _add(self, total: Tensor, gradients: dict[str, Tensor]) -> None:
        """Add the squares of (B, ...) per-sample gradients to `total` (2, B, U)."""
        for name, gradient in gradients.items():
            square = gradient.flatten(1).double().square()
            weight = self._parameters[name].flatten().double().square()
            total[0, :, self._unit_of[name]] += square.sum(dim=1)
            total[1, :, self._unit_of[name]] += square @ weight


class _Scored:
    """What is scored so far, and by which engine, for `resumable`."""

    def __init__(self, gradients: SquaredGradients, n_images: int) -> None:
        self.squares = torch.zeros(2, n_images, gradients.n_units, dtype=torch.float64)
        self._gradients = gradients

    def state_dict(self) -> dict[str, Any]:
        """Sums of all samples, 0 where there are none yet."""
        return {"squares": self.squares, "engine": self._gradients.engine}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.squares.copy_(state_dict["squares"])
        self._gradients.engine = state_dict["engine"]


class UnscorableNetwork(AuditorError):
    """The network's output cannot be differentiated with respect to any of its parameters."""

    code = "unscorable_network"
    http_status = 422
    default_remedy = "Submit a model whose outputs are logits or log-probabilities."


def count_outputs(module: nn.Module, example: Tensor) -> int:
    """K, the number of outputs; refuses a module whose output is not a differentiable (B, K) tensor."""
    with evaluation_mode(module):
        outputs: Any = module(example.detach().requires_grad_())
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or not outputs.requires_grad:
        raise UnscorableNetwork("the network does not give a differentiable (B, K) tensor")
    return int(outputs.shape[1])
