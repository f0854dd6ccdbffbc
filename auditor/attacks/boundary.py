"""The boundary engine: pushes points away from where a class ends, told only whether a point is inside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import normalize

from auditor.attacks.base import KeyedContext
from auditor.attacks.rows import RowStreams, affordable
from auditor.targets.views import LabelView

Inside = Callable[[Tensor, Tensor], Tensor]
"""(M, D) latents and (M,) int64 rows they belong to, to the (M,) mask of those with the label of their row."""


@dataclass(frozen=True)
class Sphere:
    """How a row looks around.

    Attributes:
        directions: points tried on the sphere at every iteration.
        first: radius at the start, in latent units.
        last: radius at which a row is done.
        growth: factor on the radius once the sphere holds.
        held: share of the points that must be exceeded for the sphere to hold.
        longest_step: limit of a third of the radius, which scales the step.
        box: points and centres stay within [-box, box].
    """

    directions: int
    first: float
    last: float
    growth: float
    held: float
    longest_step: float
    box: float


@dataclass
class Repulsion:
    """Where a repulsion ended.

    Attributes:
        latents: (R, D) each row's centre at its last growth, or its last centre where its sphere never grew.
        radius: (R,) of the last sphere; never above the sphere's `last`.
        path: (fraction, latents) at the fractions asked for.
        complete: False when the query budget ended it early.
        notes: remarks for the report.
    """

    latents: Tensor
    radius: Tensor
    path: tuple[tuple[float, Tensor], ...] = ()
    complete: bool = True
    notes: list[str] = field(default_factory=list)


@torch.no_grad()
def repel(
    start: Tensor,
    inside: Inside,
    streams: RowStreams,
    sphere: Sphere,
    *,
    iterations: int,
    patience: int,
    view: LabelView,
    ctx: KeyedContext,
    stage: str,
    fracs: tuple[float, ...] = (),
) -> Repulsion:
    """Move every row's centre until the largest possible sphere around it lies inside the row's class.

    An iteration sends the sphere's points of all rows still running in one go, then the moved centres. Each costs a
    row `directions` queries, plus one where any point was outside; a centre that leaves the class stays where it was.
    A row is done when its radius reaches the last one, or has not grown for `patience` iterations.

    Args:
        start: (R, D) centres inside their classes and the box, on the CPU.
        inside: asks the target.
        streams: one generator per row.
        sphere: how a row looks around.
        iterations: at most.
        patience: iterations without growth after which a row is left alone.
        view: whose budget is looked at; an iteration that it does not cover is not begun.
        ctx: progress.
        stage: name for progress.
        fracs: fractions of `iterations` in [0, 1] after which latents are kept.
    """
    R, D = start.shape
    centre, answer = start.clone(), start.clone()
    radius, waited = torch.full((R,), min(sphere.first, sphere.last)), torch.zeros(R, dtype=torch.int64)
    grew = torch.zeros(R, dtype=torch.bool)
    wanted: dict[int, list[float]] = {}
    for frac in fracs:
        wanted.setdefault(round(frac * iterations), []).append(frac)
    kept: dict[float, Tensor] = dict.fromkeys(wanted.get(0, []), start)
    complete, notes = True, list[str]()
    for iteration in range(iterations):
        running = torch.nonzero((waited < patience) & (radius < sphere.last)).squeeze(1)
        if len(running) == 0:
            break
        if not affordable(view, len(running) * (sphere.directions + 1)):
            complete = False
            notes.append(f"the query budget ended the search for the middle after {iteration} of {iterations} steps")
            break
        around = normalize(streams.normal(sphere.directions, D, index=running), dim=2)
        centre[running], held = _look_and_move(centre[running], radius[running], around, running, inside, sphere)
        growing = held > sphere.held * sphere.directions
        grew[running] |= growing
        renew = running[growing | ~grew[running]]
        answer[renew] = centre[renew]
        radius[running] = torch.where(
            growing, (radius[running] * sphere.growth).clamp(max=sphere.last), radius[running]
        )
        waited[running] = torch.where(growing, 0, waited[running] + 1)
        kept |= dict.fromkeys(wanted.get(iteration + 1, []), answer.clone())
        ctx.tick(stage, iteration + 1, iterations)
    return Repulsion(answer, radius, tuple((frac, kept.get(frac, answer)) for frac in fracs), complete, notes)


def _look_and_move(
    centre: Tensor, radius: Tensor, around: Tensor, rows: Tensor, inside: Inside, sphere: Sphere
) -> tuple[Tensor, Tensor]:
    """The next centres (M, D), and how many of the sphere's points were inside (M,).

    Args:
        centre: (M, D).
        radius: (M,).
        around: (M, N, D) unit directions.
        rows: (M,) int64, for `inside`.
        inside: asks the target.
        sphere: step and box.
    """
    M, N, _ = around.shape
    points = (centre[:, None] + radius[:, None, None] * around).clamp(-sphere.box, sphere.box)
    outside = ~inside(points.flatten(0, 1), rows.repeat_interleave(N)).view(M, N)
    push = -(outside[..., None] * around).mean(dim=1)
    step = (radius / 3).clamp(max=sphere.longest_step)
    moved = (centre + step[:, None] * push).clamp(-sphere.box, sphere.box)
    accepted = outside.any(dim=1)
    if bool(accepted.any()):
        accepted[accepted.clone()] = inside(moved[accepted], rows[accepted])
    return torch.where(accepted[:, None], moved, centre), N - outside.sum(dim=1)
