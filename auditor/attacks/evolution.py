"""The evolution engine: every row's search in one population tensor, one forward pass a generation for all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from auditor.attacks.base import KeyedContext
from auditor.attacks.rows import RowStreams, affordable
from auditor.targets.views import LabelView

Fitness = Callable[[Tensor, Tensor], Tensor]
"""(M, D) latents and (M,) int64 rows they belong to, to (M,) log-probabilities of the rows' classes."""


class Strategy(Protocol):
    """An update rule over R independent searches (see `auditor.attacks.strategies`); rows never mix."""

    @property
    def n_children(self) -> int:
        """Q, latents scored per row and generation."""
        ...

    def fittest(self) -> tuple[Tensor, Tensor]:
        """(R, D) the best latent of each row so far, and (R,) its score; the score never falls."""
        ...

    def ask(self, rows: Tensor, streams: RowStreams, progress: float) -> Tensor:
        """(A, Q, D): the next latents to score.

        Args:
            rows: (A,) int64, the rows still running.
            streams: one generator per row; only those of `rows` are used.
            progress: share of the planned generations that are behind, in [0, 1).
        """
        ...

    def tell(self, rows: Tensor, children: Tensor, scores: Tensor) -> None:
        """Take in the (A, Q) scores of what `ask` gave for `rows`."""
        ...


@dataclass
class Evolution:
    """Where an evolution ended.

    Attributes:
        latents: (R, D) the fittest of each row.
        scores: (R,) their log-probabilities.
        path: (fraction, fittest latents) at the fractions asked for.
        complete: False when the query budget ended it early.
        notes: remarks for the report.
    """

    latents: Tensor
    scores: Tensor
    path: tuple[tuple[float, Tensor], ...] = ()
    complete: bool = True
    notes: list[str] = field(default_factory=list)


@torch.no_grad()
def evolve(
    strategy: Strategy,
    fitness: Fitness,
    streams: RowStreams,
    *,
    generations: int,
    stop_score: float,
    view: LabelView,
    ctx: KeyedContext,
    stage: str,
    fracs: tuple[float, ...] = (),
) -> Evolution:
    """Run `strategy` on every row.

    A generation costs `strategy.n_children` queries for each row still running; no row is queried again once its
    fittest reaches `stop_score`, and no generation is begun that the budget does not cover.

    Args:
        strategy: fresh update rule, which holds the starting populations and their scores.
        fitness: scores children.
        streams: one generator per row.
        generations: at most.
        stop_score: log-probability at which a row is done.
        view: whose budget is looked at.
        ctx: progress.
        stage: name for progress.
        fracs: fractions of `generations` in [0, 1] after which the fittest are kept.
    """
    Q = strategy.n_children
    wanted: dict[int, list[float]] = {}
    for frac in fracs:
        wanted.setdefault(round(frac * generations), []).append(frac)
    kept: dict[float, Tensor] = dict.fromkeys(wanted.get(0, []), strategy.fittest()[0])
    complete, notes = True, []
    for generation in range(generations):
        running = torch.nonzero(strategy.fittest()[1] < stop_score).squeeze(1)
        if len(running) == 0:
            break
        if not affordable(view, len(running) * Q):
            complete = False
            notes.append(f"the query budget ended the evolution after {generation} of {generations} generations")
            break
        children = strategy.ask(running, streams, generation / generations)
        scores = fitness(children.flatten(0, 1), running.repeat_interleave(Q)).view(len(running), Q)
        strategy.tell(running, children, scores)
        kept |= dict.fromkeys(wanted.get(generation + 1, []), strategy.fittest()[0])
        ctx.tick(stage, generation + 1, generations)
    best, best_scores = strategy.fittest()
    return Evolution(best, best_scores, tuple((frac, kept.get(frac, best)) for frac in fracs), complete, notes)
