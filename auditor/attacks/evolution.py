"""The evolution engine: one genetic algorithm per row, all of them in one population tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from auditor.attacks.base import KeyedContext
from auditor.attacks.rows import RowStreams, affordable
from auditor.targets.views import LabelView

Fitness = Callable[[Tensor, Tensor], Tensor]
"""(M, D) latents and (M,) int64 rows they belong to, to (M,) log-probabilities of the rows' classes."""


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


def crossover(first: Tensor, second: Tensor, s1: Tensor, s2: Tensor, draws: Tensor) -> Tensor:
    """Uniform crossover that favours the better parent.

    Each coordinate comes from `first` with probability `e^s1 / (e^s1 + e^s2)`. (MIRROR's code divides the
    log-probabilities themselves, which are negative, and so favours the worse parent.)

    Args:
        first: (..., D) latents.
        second: (..., D) latents.
        s1: (...) log-probabilities of `first`.
        s2: (...) log-probabilities of `second`.
        draws: (..., D) uniform in [0, 1).
    """
    share = torch.sigmoid(s1 - s2)
    return torch.where(draws < share[..., None], first, second)


def mutate(latents: Tensor, draws: Tensor, *, rate: float, size: float) -> Tensor:
    """Add U(-size, size) to a random share `rate` of the coordinates; `draws` is (..., 2 * D) uniform in [0, 1)."""
    chosen, amount = draws.chunk(2, dim=-1)
    return torch.where(chosen < rate, latents + size * (2 * amount - 1), latents)


def breed(
    population: Tensor, scores: Tensor, draws: Tensor, *, mutation_rate: float, mutation_size: float, box: float
) -> Tensor:
    """Children of parents drawn in proportion to their probability: crossover, mutation, clipping.

    Args:
        population: (R, P, D).
        scores: (R, P) log-probabilities.
        draws: (R, Q, 2 + 3 * D) uniform in [0, 1), for Q children.
        mutation_rate: share of coordinates changed.
        mutation_size: largest change, in latent units.
        box: children are clipped to [-box, box].

    Returns:
        (R, Q, D).
    """
    D = population.shape[2]
    cumulative = torch.softmax(scores, dim=1).cumsum(dim=1)
    parents = torch.searchsorted(cumulative, draws[..., :2].flatten(1)).clamp(max=population.shape[1] - 1)
    parents = parents.view(*draws.shape[:2], 2)  # (R, Q, 2)
    first, second = (population.gather(1, parents[..., i, None].expand(-1, -1, D)) for i in (0, 1))
    s1, s2 = (scores.gather(1, parents[..., i]) for i in (0, 1))
    children = crossover(first, second, s1, s2, draws[..., 2 : 2 + D])
    return mutate(children, draws[..., 2 + D :], rate=mutation_rate, size=mutation_size).clamp(-box, box)


@torch.no_grad()
def evolve(
    population: Tensor,
    scores: Tensor,
    fitness: Fitness,
    streams: RowStreams,
    *,
    generations: int,
    mutation_rate: float,
    mutation_size: float,
    box: float,
    stop_score: float,
    view: LabelView,
    ctx: KeyedContext,
    stage: str,
    fracs: tuple[float, ...] = (),
) -> Evolution:
    """Evolve every row's population on its own; the fittest of a row always survives.

    Each generation replaces all but the fittest of a row by P - 1 children, so it costs P - 1 queries for each row
    still running; no row is queried again once its fittest reaches `stop_score`, and no generation is begun that the
    budget does not cover.

    Args:
        population: (R, P, D) at the start, on the CPU.
        scores: (R, P) their log-probabilities.
        fitness: scores children.
        streams: one generator per row.
        generations: at most.
        mutation_rate: share of coordinates changed per child.
        mutation_size: largest change, in latent units.
        box: children are clipped to [-box, box].
        stop_score: log-probability at which a row is done.
        view: whose budget is looked at.
        ctx: progress.
        stage: name for progress.
        fracs: fractions of `generations` in [0, 1] after which the fittest are kept.
    """
    population, scores = population.clone(), scores.clone()
    _, P, D = population.shape
    wanted: dict[int, list[float]] = {}
    for frac in fracs:
        wanted.setdefault(round(frac * generations), []).append(frac)
    kept: dict[float, Tensor] = dict.fromkeys(wanted.get(0, []), _fittest(population, scores)[0])
    complete, notes = True, []
    for generation in range(generations):
        running = torch.nonzero(scores.amax(dim=1) < stop_score).squeeze(1)
        if len(running) == 0:
            break
        if not affordable(view, len(running) * (P - 1)):
            complete = False
            notes.append(f"the query budget ended the evolution after {generation} of {generations} generations")
            break
        draws = streams.uniform(P - 1, 2 + 3 * D, index=running)
        children = breed(
            population[running],
            scores[running],
            draws,
            mutation_rate=mutation_rate,
            mutation_size=mutation_size,
            box=box,
        )
        rated = fitness(children.flatten(0, 1), running.repeat_interleave(P - 1)).view(len(running), P - 1)
        elite, elite_score = _fittest(population[running], scores[running])
        population[running] = torch.cat([elite[:, None], children], dim=1)
        scores[running] = torch.cat([elite_score[:, None], rated], dim=1)
        kept |= dict.fromkeys(wanted.get(generation + 1, []), _fittest(population, scores)[0])
        ctx.tick(stage, generation + 1, generations)
    best, best_scores = _fittest(population, scores)
    return Evolution(best, best_scores, tuple((frac, kept.get(frac, best)) for frac in fracs), complete, notes)


def _fittest(population: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """(R, D) and (R,): the best member of each row."""
    value, place = scores.max(dim=1)
    return population[torch.arange(len(population)), place], value
