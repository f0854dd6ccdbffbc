"""MIRROR-b: a genetic algorithm over latents that reads class scores only."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor

from auditor.attacks.base import Attack, AttackConfig, Inversion, KeyedContext, Rows
from auditor.attacks.evolution import evolve
from auditor.attacks.initial import search_pool
from auditor.attacks.rows import Chunks, RowStreams, class_log_probs, pictured
from auditor.attacks.strategies import Genetic
from auditor.contracts.access import Access
from auditor.contracts.cost import Cost
from auditor.priors.base import Prior
from auditor.targets.views import ScoreView


class MirrorBConfig(AttackConfig):
    """Parameters of MIRROR-b."""

    pool: int = Field(default=2000, ge=2)
    """Prior samples scored for the first populations (paper: 100,000); raised to what the populations need."""
    population: int = Field(default=30, ge=2)
    """Members per row (paper: 100)."""
    generations: int = Field(default=20, ge=1)
    """At most (paper: 100)."""
    mutation_rate: float = Field(default=0.1, ge=0, le=1)
    """Share of coordinates changed per child."""
    mutation_size: float = Field(default=0.5, ge=0)
    """Largest change of a coordinate, in standard deviations of the prior's latent."""
    box: float = Field(default=2.0, gt=0)
    """Children stay within this many standard deviations of the mean, coordinate by coordinate."""
    stop_confidence: float = Field(default=1.0, gt=0, le=1)
    """A row whose fittest reaches this probability is left alone (paper: 0.95); 1: never. An over-confident target is
    convinced long before its classes are rebuilt."""


class MirrorB(Attack[MirrorBConfig]):
    """Evolve populations that start from the best of a shared pool; fitness is the target's log-probability.

    Every row (class, sample) has its own population: the members of rank sample, sample + n, ... for its class.
    Queries: the pool once, then population - 1 per row and generation.

    Departures: the paper's code weighs parents by their log-probabilities, which are negative, and so favours the
    worse one; here a coordinate comes from the first parent with probability e^s1 / (e^s1 + e^s2). The box in
    StyleGAN2's p-space is a box in z, which is N(0, I) for every prior here. The first generation's scores come from
    the pool, and the fittest, which is carried over, is not queried again. A smaller pool, population and number of
    generations by default, and no early stop: on a
    confident LeNet-5 it stopped after 35 queries per picture with a lift of 0.26, and without it reached 0.58.
    """

    name = "mirror-b"
    access = Access.SCORE
    paper = "An, Tao, Xu, Liu, Shen, Yao, Xu and Zhang, NDSS 2022 (MIRROR), black-box variant"
    Config = MirrorBConfig

    def cost(self, attacked: int, samples_per_class: int, n_classes: int) -> Cost:
        """The pool, then `population` - 1 images a row and generation; less where rows stop early."""
        config, rows = self.config, attacked * samples_per_class
        pool = max(config.pool, samples_per_class * config.population)
        forward = pool + rows * (config.population - 1) * config.generations
        return Cost(forward=forward, shared=pool, decodes=forward + 2 * rows, bound=config.stop_confidence < 1)

    def invert(
        self, view: ScoreView, prior: Prior, rows: Rows, ctx: KeyedContext, snapshot_fracs: tuple[float, ...]
    ) -> Inversion:
        """One population per row."""
        config, chunks = self.config, Chunks(ctx)
        per_class = int(rows.sample.max()) + 1
        size = max(config.pool, per_class * config.population)
        pool = search_pool(view, prior, size, chunks, ctx, stage=f"{self.name} search", box=config.box)
        ranks = rows.sample[:, None] + per_class * torch.arange(config.population)  # (R, P)
        members = Rows(rows.labels.repeat_interleave(config.population), ranks.flatten())
        places = pool.places(members).view(len(rows), -1)
        population = pool.latents[places]
        scores = pool.scores[places, rows.labels[:, None]].clamp_min(-1e4)

        def fitness(latents: Tensor, row: Tensor) -> Tensor:
            return class_log_probs(view, prior, latents, rows.labels[row], chunks, ctx)

        end = evolve(
            Genetic(
                population,
                scores,
                mutation_rate=config.mutation_rate,
                mutation_size=config.mutation_size,
                box=config.box,
            ),
            fitness,
            RowStreams(ctx, rows, "evolution"),
            generations=config.generations,
            stop_score=math.log(config.stop_confidence) if config.stop_confidence < 1 else math.inf,
            view=view,
            ctx=ctx,
            stage=self.name,
            fracs=snapshot_fracs,
        )
        return pictured(end, population[:, 0], prior, rows, chunks, ctx, complete=pool.complete)
