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

    def keep(self, rows: Tensor) -> None:
        """Forget the state of all rows but those that the mask (N,) marks."""
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

    def keep(self, rows: Tensor) -> None:
        """Forget the state of all rows but those that the mask (N,) marks."""
        if self._first is not None and self._second is not None:
            self._first, self._second = self._first[rows], self._second[rows]


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

    def keep(self, rows: Tensor) -> None:
        """Forget the velocity of all rows but those that the mask (N,) marks."""
        if self._velocity is not None:
            self._velocity = self._velocity[rows]


StopRule = Callable[[Tensor, Tensor, int], Tensor]
"""(M,) losses of rows `index` (M,) at `step` to the (M,) mask of the rows that are done, each judged on its own."""


class Settled:
    """Stops a row whose loss was at most `below` at `checks` evaluations in a row.

    Args:
        below: in the objective's units.
        checks: one low loss may be the luck of an augmentation.
    """

    def __init__(self, below: float, checks: int = 2) -> None:
        self.below, self.checks = below, checks
        self._low: dict[int, int] = {}

    def __call__(self, losses: Tensor, index: Tensor, step: int) -> Tensor:
        """(M,) mask of the rows that are done."""
        for row, low in zip(index.tolist(), (losses <= self.below).tolist(), strict=True):
            self._low[row] = self._low.get(row, 0) + 1 if low else 0
        return torch.tensor([self._low[row] >= self.checks for row in index.tolist()], device=losses.device)


@dataclass
class Descent:
    """Where a descent ended.

    Attributes:
        latents: (N, D) after the last step; with `keep_best`, those of the lowest loss.
        loss: (N,) at each row's last evaluated point; with `keep_best`, at `latents`; None when no step could be
            afforded.
        path: (fraction, latents) at the fractions asked for; with `keep_best`, the best by then.
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
    keep_best: bool = False,
    stop: StopRule | None = None,
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
        constrain: applied to the latents after every update, elementwise: it sees only the rows still moving.
        schedule: factor on the step size from (step, steps).
        fracs: fractions of `steps` in [0, 1] after which latents are kept.
        keep_best: give back each row's point of lowest loss among those evaluated, in place of its last one. (Nobody
            evaluates the point after the last update, so it does not count.)
        stop: rows it calls done stay at the point it judged, and are no longer sent to the target. None: every row
            takes all steps, since an over-confident target is convinced long before a class is rebuilt.
    """
    wanted: dict[int, list[float]] = {}
    for frac in fracs:
        wanted.setdefault(round(frac * steps), []).append(frac)
    course = _Course(latents.to(ctx.device).float(), keep_best)
    kept: dict[float, Tensor] = dict.fromkeys(wanted.get(0, []), course.result)
    active, complete, notes = torch.arange(len(latents)), True, []
    for step in range(steps):
        if not affordable(view, len(active) * objective.queries_per_row):
            complete = False
            notes.append(f"the query budget ended the descent after {step} of {steps} steps")
            break
        loss, gradient = _differentiate(objective, course.z[active], active, step, chunks)
        course.evaluated(active, loss)
        if stop is not None:
            going = ~stop(loss, active, step)
            active, gradient = active[going.cpu()], gradient[going]
            stepper.keep(going)
        if len(active):
            course.move(active, constrain(stepper.step(course.z[active], gradient, schedule(step, steps))))
        kept |= dict.fromkeys(wanted.get(step + 1, []), course.result)
        ctx.tick(stage, step + 1, steps)
        if not len(active):
            break
    path = tuple((frac, kept.get(frac, course.result)) for frac in fracs)
    return Descent(course.result, course.loss, path, complete, notes)


def _differentiate(
    objective: RowObjective, z: Tensor, index: Tensor, step: int, chunks: Chunks
) -> tuple[Tensor, Tensor]:
    """(M,) losses and (M, D) gradients at (M, D) latents of rows `index`."""

    def gradient(rows: slice) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf = z[rows].detach().requires_grad_(True)
            losses = objective(leaf, index[rows], step)
            (grad,) = torch.autograd.grad(losses.sum(), leaf)
        return losses.detach(), grad

    parts = chunks.map(len(index), gradient, cost=max(1, objective.queries_per_row))
    return torch.cat([losses for losses, _ in parts]), torch.cat([grad for _, grad in parts])


class _Course:
    """Where every row is, and which point of it will be given back; no tensor is written to in place.

    Attributes:
        z: (N, D) where the rows are.
        result: (N, D) what is given back if the descent ends now.
        loss: (N,) as `Descent` has it.
    """

    def __init__(self, z: Tensor, keep_best: bool) -> None:
        self.z, self.result, self._keep_best = z, z, keep_best
        self.loss: Tensor | None = None

    def evaluated(self, index: Tensor, loss: Tensor) -> None:
        """Take note of the losses (M,) of rows `index` where they are."""
        index = index.to(loss.device)
        known = torch.full((len(self.z),), torch.inf, device=loss.device) if self.loss is None else self.loss
        if self._keep_best:
            better = loss < known[index]
            best = torch.where(better[:, None], self.z[index], self.result[index])
            self.result = self.result.index_copy(0, index, best)
            loss = torch.where(better, loss, known[index])
        self.loss = known.index_copy(0, index, loss)

    def move(self, index: Tensor, z: Tensor) -> None:
        """Put rows `index` at `z` (M, D)."""
        self.z = self.z.index_copy(0, index.to(z.device), z)
        if not self._keep_best:
            self.result = self.z
