"""The gradient engine: descends any per-row objective over flat latents, in chunks, with per-row optimiser state."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from auditor.attacks.base import KeyedContext
from auditor.attacks.rows import Chunks, affordable
from auditor.targets.views import LabelView


class RowObjective(Protocol):
    """What the engine descends: a loss per row that depends on that row alone."""

    @property
    def queries_per_row(self) -> int:
        """Images one evaluation of one row sends through the target."""
        ...

    def __call__(self, latents: Tensor, index: Tensor, step: int) -> Tensor:
        """(B, D) latents of rows `index` at `step` to (B,) losses."""
        ...


class Stepper(Protocol):
    """An update rule with elementwise state, so rows never mix."""

    def step(self, latents: Tensor, gradient: Tensor, scale: float) -> Tensor:
        """The next latents, (N, D) from (N, D); `scale` multiplies the step size."""
        ...


class Adam:
    """Adam (Kingma and Ba, ICLR 2015, arXiv 1412.6980) on flat rows."""

    def __init__(self, lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> None:
        self.lr, self.betas, self.eps = lr, betas, eps
        self._first: Tensor | None = None
        self._second: Tensor | None = None
        self._count = 0

    def step(self, latents: Tensor, gradient: Tensor, scale: float) -> Tensor:
        """One Adam update."""
        beta1, beta2 = self.betas
        if self._first is None or self._second is None:
            self._first, self._second = torch.zeros_like(latents), torch.zeros_like(latents)
        self._count += 1
        self._first = beta1 * self._first + (1 - beta1) * gradient
        self._second = beta2 * self._second + (1 - beta2) * gradient.square()
        mean = self._first / (1 - beta1**self._count)
        deviation = (self._second / (1 - beta2**self._count)).sqrt()
        return latents - scale * self.lr * mean / (deviation + self.eps)


class Nesterov:
    """Momentum in look-ahead variables: `v' = m v - lr g; z' = z - m v + (1 + m) v'`; the gradient is taken at `z`."""

    def __init__(self, lr: float, momentum: float = 0.9) -> None:
        self.lr, self.momentum = lr, momentum
        self._velocity: Tensor | None = None

    def step(self, latents: Tensor, gradient: Tensor, scale: float) -> Tensor:
        """One look-ahead update."""
        before = torch.zeros_like(latents) if self._velocity is None else self._velocity
        self._velocity = self.momentum * before - scale * self.lr * gradient
        return latents - self.momentum * before + (1 + self.momentum) * self._velocity


@dataclass
class Descent:
    """Where a descent ended.

    Attributes:
        latents: (N, D) after the last step.
        loss: (N,) at the last evaluated point, or None when no step could be afforded.
        path: (fraction, latents) at the fractions asked for.
        complete: False when the query budget ended it early.
        notes: remarks for the report.
    """

    latents: Tensor
    loss: Tensor | None = None
    path: tuple[tuple[float, Tensor], ...] = ()
    complete: bool = True
    notes: list[str] = field(default_factory=list)


def cosine(step: int, steps: int) -> float:
    """Step size factor from 1 down to 0 along half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * step / max(1, steps)))


def constant(step: int, steps: int) -> float:
    """Step size factor 1."""
    return 1.0


def descend(
    latents: Tensor,
    objective: RowObjective,
    stepper: Stepper,
    *,
    steps: int,
    view: LabelView,
    chunks: Chunks,
    ctx: KeyedContext,
    stage: str,
    constrain: Callable[[Tensor], Tensor] = lambda latents: latents,
    schedule: Callable[[int, int], float] = constant,
    fracs: tuple[float, ...] = (),
) -> Descent:
    """Minimise `objective` from `latents`; gradients are taken with respect to latents only.

    Args:
        latents: (N, D) starting points.
        objective: loss per row.
        stepper: fresh update rule; its state spans all rows, whatever the chunks.
        steps: updates.
        view: whose budget is looked at before every step; a step that it does not cover is not begun.
        chunks: how many rows go through the networks at once.
        ctx: device and progress.
        stage: name for progress.
        constrain: applied to the latents after every update.
        schedule: factor on the step size from (step, steps).
        fracs: fractions of `steps` in [0, 1] after which latents are kept.
    """
    z, n = latents.to(ctx.device).float(), len(latents)
    wanted: dict[int, list[float]] = {}
    for frac in fracs:
        wanted.setdefault(round(frac * steps), []).append(frac)
    kept: dict[float, Tensor] = dict.fromkeys(wanted.get(0, []), z)
    loss: Tensor | None = None
    index, complete, notes = torch.arange(n), True, []
    for step in range(steps):
        if not affordable(view, n * objective.queries_per_row):
            complete = False
            notes.append(f"the query budget ended the descent after {step} of {steps} steps")
            break

        def gradient(rows: slice, z: Tensor = z, step: int = step) -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                leaf = z[rows].detach().requires_grad_(True)
                losses = objective(leaf, index[rows], step)
                (grad,) = torch.autograd.grad(losses.sum(), leaf)
            return losses.detach(), grad

        parts = chunks.map(n, gradient, cost=objective.queries_per_row)
        loss = torch.cat([losses for losses, _ in parts])
        z = constrain(stepper.step(z, torch.cat([grad for _, grad in parts]), schedule(step, steps)))
        kept |= dict.fromkeys(wanted.get(step + 1, []), z)
        ctx.tick(stage, step + 1, steps)
    path = tuple((frac, kept.get(frac, z)) for frac in fracs)
    return Descent(z, loss, path, complete, notes)
