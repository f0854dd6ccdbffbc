"""Update rules of the evolution engine: genetic algorithm, differential evolution, evolution strategy.

All state spans all rows (R); a rule touches only the rows it is asked about. Latents live on the CPU.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from auditor.attacks.rows import RowStreams


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


class Genetic:
    """Genetic algorithm: each generation replaces all but the fittest of a row by P - 1 children.

    Args:
        population: (R, P, D) at the start.
        scores: (R, P) their log-probabilities.
        mutation_rate: share of coordinates changed per child.
        mutation_size: largest change, in latent units.
        box: children are clipped to [-box, box].
    """

    def __init__(
        self, population: Tensor, scores: Tensor, *, mutation_rate: float, mutation_size: float, box: float
    ) -> None:
        self._population, self._scores = population.clone(), scores.clone()
        self._rate, self._size, self._box = mutation_rate, mutation_size, box

    @property
    def n_children(self) -> int:
        """P - 1: the fittest is carried over and not scored again."""
        return self._population.shape[1] - 1

    def fittest(self) -> tuple[Tensor, Tensor]:
        """(R, D) and (R,): the best member of each row."""
        return _fittest(self._population, self._scores)

    def ask(self, rows: Tensor, streams: RowStreams, progress: float) -> Tensor:
        """(A, P - 1, D) children."""
        draws = streams.uniform(self.n_children, 2 + 3 * self._population.shape[2], index=rows)
        return breed(
            self._population[rows],
            self._scores[rows],
            draws,
            mutation_rate=self._rate,
            mutation_size=self._size,
            box=self._box,
        )

    def tell(self, rows: Tensor, children: Tensor, scores: Tensor) -> None:
        """The children and the fittest are the next population."""
        elite, elite_score = _fittest(self._population[rows], self._scores[rows])
        self._population[rows] = torch.cat([elite[:, None], children], dim=1)
        self._scores[rows] = torch.cat([elite_score[:, None], scores], dim=1)


class Differential:
    """Differential evolution: each member is replaced by its child exactly when the child scores higher.

    The child of `x` is `x + pull (best - x) + spread (x_r1 - x_r2)` with two other members r1 and r2, of which each
    coordinate is taken with probability `1 - keep`, else the parent's (Storn and Price, Journal of Global Optimization
    1997; the step towards the best as in C2FMI's code). `spread` shrinks to zero over the last fifth of the
    generations. Raw scores of parent and child are compared (a public port normalises each over its own generation
    first, which makes them incomparable).

    Args:
        population: (R, P, D) at the start, P at least 3.
        scores: (R, P) their log-probabilities.
        pull: share of the way to the row's best.
        spread: factor on the difference of two members.
        keep: probability that a coordinate stays the parent's.
        box: children are clipped to [-box, box].
    """

    _SETTLE = 0.2

    def __init__(
        self, population: Tensor, scores: Tensor, *, pull: float, spread: float, keep: float, box: float
    ) -> None:
        if population.shape[1] < 3:
            raise ValueError("differential evolution needs at least three members per row")
        self._population, self._scores = population.clone(), scores.clone()
        self._pull, self._spread, self._keep, self._box = pull, spread, keep, box

    @property
    def n_children(self) -> int:
        """P: one child per member."""
        return self._population.shape[1]

    @property
    def scores(self) -> Tensor:
        """(R, P) log-probability of every member."""
        return self._scores

    def fittest(self) -> tuple[Tensor, Tensor]:
        """(R, D) and (R,): the best member of each row."""
        return _fittest(self._population, self._scores)

    def ask(self, rows: Tensor, streams: RowStreams, progress: float) -> Tensor:
        """(A, P, D): the child of every member."""
        parents, (_, P, D) = self._population[rows], self._population.shape
        draws = streams.uniform(P, 2 + D, index=rows)
        own = torch.arange(P)
        first = (draws[..., 0] * (P - 1)).long().clamp(max=P - 2)
        first = first + (first >= own)
        second = (draws[..., 1] * (P - 2)).long().clamp(max=P - 3)
        second = second + (second >= torch.minimum(first, own))
        second = second + (second >= torch.maximum(first, own))
        difference = _take(parents, first) - _take(parents, second)
        best = _fittest(parents, self._scores[rows])[0][:, None]
        spread = self._spread * min(1.0, (1 - progress) / self._SETTLE)
        moved = parents + self._pull * (best - parents) + spread * difference
        return torch.where(draws[..., 2:] < self._keep, parents, moved).clamp(-self._box, self._box)

    def tell(self, rows: Tensor, children: Tensor, scores: Tensor) -> None:
        """Better children take their parents' places."""
        before = self._scores[rows]
        better = scores > before
        self._population[rows] = torch.where(better[..., None], children, self._population[rows])
        self._scores[rows] = torch.where(better, scores, before)


class DiagonalCma:
    """Evolution strategy with a deviation per coordinate, the step size adapted along the path of the mean.

    Separable CMA-ES (Ros and Hansen, PPSN 2008): the mean moves to the weighted mean of the better half of the
    children, a diagonal covariance learns from their spread and from the path, and the overall step grows while steps
    line up. Children are clipped to the box and take part as clipped.

    Args:
        start: (R, D) means at the start.
        scores: (R,) their log-probabilities.
        n_children: Q, at least 4.
        deviation: of every coordinate at the start, in latent units.
        box: children are clipped to [-box, box].
    """

    def __init__(self, start: Tensor, scores: Tensor, *, n_children: int, deviation: float, box: float) -> None:
        self._n_children, self._box = n_children, box
        self._best, self._best_scores = start.clone(), scores.clone()
        self._mean = start.clamp(-box, box)
        self._sigma = torch.full((len(start),), deviation)
        self._variance = torch.ones_like(start)
        self._path, self._sigma_path = torch.zeros_like(start), torch.zeros_like(start)
        self._count = torch.zeros(len(start))
        mu = n_children // 2
        weights = math.log(mu + 0.5) - torch.arange(1, mu + 1).float().log()
        self._weights = weights / weights.sum()

    @property
    def n_children(self) -> int:
        """Q."""
        return self._n_children

    def fittest(self) -> tuple[Tensor, Tensor]:
        """(R, D) and (R,): the best latent scored so far."""
        return self._best, self._best_scores

    def ask(self, rows: Tensor, streams: RowStreams, progress: float) -> Tensor:
        """(A, Q, D) draws around the means."""
        spread = self._sigma[rows, None] * self._variance[rows].sqrt()
        steps = streams.normal(self._n_children, self._mean.shape[1], index=rows) * spread[:, None]
        return (self._mean[rows, None] + steps).clamp(-self._box, self._box)

    def tell(self, rows: Tensor, children: Tensor, scores: Tensor) -> None:
        """Move mean, deviations and step size of `rows`, and keep their best."""
        best, best_scores = _fittest(
            torch.cat([self._best[rows, None], children], dim=1), torch.cat([self._best_scores[rows, None], scores], 1)
        )
        self._best, self._best_scores = self._best.clone(), self._best_scores.clone()
        self._best[rows], self._best_scores[rows] = best, best_scores
        order = scores.argsort(dim=1, descending=True, stable=True)[:, : len(self._weights)]
        steps = (_take(children, order) - self._mean[rows, None]) / self._sigma[rows, None, None]  # (A, mu, D)
        move = (self._weights[:, None] * steps).sum(dim=1)
        self._mean[rows] += self._sigma[rows, None] * move
        self._adapt(rows, steps, move)

    def _adapt(self, rows: Tensor, steps: Tensor, move: Tensor) -> None:
        """The strategy's own parameters, with the constants of the paper; `steps` are in units of the step size."""
        D, weights = self._mean.shape[1], self._weights
        effective = float(1 / weights.square().sum())
        c_sigma = (effective + 2) / (D + effective + 3)
        damping = 1 + 2 * max(0.0, math.sqrt((effective - 1) / (D + 1)) - 1) + c_sigma
        c_path = 4 / (D + 4)
        c_full = 2 / (effective * (D + math.sqrt(2)) ** 2)
        c_full += (1 - 1 / effective) * min(1.0, (2 * effective - 1) / ((D + 2) ** 2 + effective))
        c_var = min(1.0, c_full * (D + 2) / 3)
        typical = math.sqrt(D) * (1 - 1 / (4 * D) + 1 / (21 * D**2))  # E |N(0, I)|
        self._count[rows] += 1
        sigma_path = (1 - c_sigma) * self._sigma_path[rows]
        sigma_path += math.sqrt(c_sigma * (2 - c_sigma) * effective) * move / self._variance[rows].sqrt()
        length = sigma_path.norm(dim=1)
        warm = (1 - (1 - c_sigma) ** (2 * self._count[rows])).sqrt()
        steady = (length / warm < (1.4 + 2 / (D + 1)) * typical).float()[:, None]
        path = (1 - c_path) * self._path[rows] + steady * math.sqrt(c_path * (2 - c_path) * effective) * move
        spread = (weights[:, None] * steps.square()).sum(dim=1)
        variance = (1 - c_var) * self._variance[rows]
        self._variance[rows] = variance + c_var * (path.square() / effective + (1 - 1 / effective) * spread)
        self._sigma[rows] *= torch.exp((c_sigma / damping * (length / typical - 1)).clamp(max=1.0))
        self._sigma_path[rows], self._path[rows] = sigma_path, path


def _take(population: Tensor, places: Tensor) -> Tensor:
    """(A, Q, D): members `places` (A, Q) of (A, P, D)."""
    return population.gather(1, places[..., None].expand(-1, -1, population.shape[2]))


def _fittest(population: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """(R, D) and (R,): the best member of each row."""
    value, place = scores.max(dim=1)
    return population[torch.arange(len(population)), place], value
