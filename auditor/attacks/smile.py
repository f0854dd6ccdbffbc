"""SMILE: descend a stand-in for the target, learned from shared queries, then evolve on the target itself."""

from __future__ import annotations

import math
from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn

from auditor.attacks.base import Attack, AttackConfig, Inversion, KeyedContext, Rows
from auditor.attacks.evolution import Evolution, evolve
from auditor.attacks.gradient import Adam, cosine, descend
from auditor.attacks.initial import Pool, as_drawn, draw_pool
from auditor.attacks.long_tailed import Experts, Imitation, OnExperts, imitate
from auditor.attacks.rows import Chunks, RowStreams, affordable, class_log_probs, paint, pictured
from auditor.attacks.strategies import DiagonalCma
from auditor.contracts.access import Access
from auditor.contracts.cost import Cost
from auditor.priors.base import Prior
from auditor.targets.views import ScoreView


class SmileConfig(AttackConfig):
    """Parameters of SMILE."""

    pool: int = Field(default=2500, ge=2)
    """Prior samples scored once per target: the surrogate learns from them, and every class starts from its best."""
    epochs: int = Field(default=20, ge=1)
    """Passes of the surrogate's training over the pool (paper: 200)."""
    batch_size: int = Field(default=128, ge=2)
    lr: float = Field(default=1e-3, gt=0)
    """Step size of the surrogate's training."""
    width: int = Field(default=16, ge=1)
    """Channels of the surrogate's first layer."""
    hard_weight: float = Field(default=0.15, ge=0)
    """Weight of the cross-entropy with the target's winning class beside the divergence from its scores."""
    diversity_weight: float = Field(default=0.01, ge=0)
    """Weight of the inverse divergence of each expert from their mean (paper's code: 10)."""
    steps: int = Field(default=60, ge=1)
    """Of the descent on the surrogate (paper: 200)."""
    step_size: float = Field(default=0.1, gt=0)
    """Of that descent (Adam), annealed to zero by a cosine."""
    surrogate_box: float = Field(default=2.0, gt=0)
    """Latents stay within this many standard deviations while the surrogate leads (paper: 1, in StyleGAN's p-space)."""
    queries: int = Field(default=1000, ge=1)
    """To the target for each row, beside the shared ones: one to confirm the descent, then whole generations."""
    children: int = Field(default=20, ge=4)
    """Queries per row and generation."""
    deviation: float = Field(default=0.3, gt=0)
    """Of every coordinate when the evolution begins, in standard deviations of the prior's latent."""
    box: float = Field(default=3.0, gt=0)
    """Latents stay within this many standard deviations while the target leads (paper: 1.7, in p-space)."""

    @property
    def generations(self) -> int:
        """Of the evolution."""
        return (self.queries - 1) // self.children


class Answers(nn.Module):
    """What the target said about the pool, stored beside the surrogate.

    Attributes:
        scores: (S, K) log-probabilities.
    """

    scores: Tensor

    def __init__(self, size: int, n_classes: int) -> None:
        super().__init__()
        self.register_buffer("scores", torch.zeros(size, n_classes))


class Smile(Attack[SmileConfig]):
    """Few queries: 2,500 shared ones teach a surrogate of the target, a thousand for each picture refine its answer.

    A pool of prior samples is scored once per target. The surrogate, three experts on one trunk, imitates the scores,
    with rare classes weighed up and the experts pushed apart. A row starts from its class's best pool members, descends
    the surrogate, and keeps what it found only if one query to the target confirms that it is better; from there an
    evolution strategy climbs the target's log-probability. Queries: `pool` while the surrogate is trained, and at most
    `queries` for each row.

    Departures: the surrogate is a small network trained from nothing (the paper adapts a public face recogniser), with
    fewer passes; its sample weights act sample by sample (the paper's code multiplies them with a mean over the batch,
    which only scales it); diversity weighs far less. The confirming query is ours: a weak surrogate leads astray.
    Separable CMA-ES, told the clipped children it scored, stands in for nevergrad's NGOpt. Boxes are in z ~ N(0, I) in
    place of StyleGAN's p-space, and wider.
    """

    name = "smile"
    access = Access.SCORE
    paper = "Li, Zhang, Wang, Chen, Hu, Yi, Xu, Yang and Ma, CVPR 2025, arXiv 2503.16266"
    Config = SmileConfig

    def cost(self, attacked: int, samples_per_class: int, n_classes: int) -> Cost:
        """One confirming query and the generations of each row; the pool is scored before."""
        config, rows = self.config, attacked * samples_per_class
        forward = rows * (1 + config.generations * config.children)
        passes = rows * config.steps
        return Cost(
            forward=forward,
            once=config.pool,
            decodes=forward + 2 * rows,
            gradient_decodes=passes,
            helper_passes=passes,
        )

    def aids(self, image_shape: tuple[int, int, int], n_classes: int) -> nn.ModuleDict:
        """The surrogate, and the target's answers it learns from."""
        return nn.ModuleDict(
            {
                "surrogate": Experts(image_shape[0], n_classes, self.config.width),
                "answers": Answers(self.config.pool, n_classes),
            }
        )

    def train_aids(self, aids: nn.ModuleDict, view: ScoreView, prior: Prior, public: Tensor, ctx: KeyedContext) -> None:
        """Score the pool and train the surrogate on it; of public images it sees what the prior made of them."""
        config, chunks = self.config, Chunks(ctx)
        latents, labels = draw_pool(prior, config.pool, ctx)
        images = paint(prior, latents, labels, chunks, ctx)

        def ask(part: slice) -> Tensor:
            with ctx.autocast():
                scores = view.log_probs(images[part].to(ctx.device)).float().cpu()
            ctx.tick(f"{self.name} pool", part.stop, config.pool)
            return scores

        scores = torch.cat(chunks.map(config.pool, ask))
        cast(Answers, aids["answers"]).scores.copy_(scores)
        imitation = Imitation(config.epochs, config.batch_size, config.lr, config.hard_weight, config.diversity_weight)
        imitate(aids["surrogate"], images, scores, imitation, ctx, stage=f"{self.name} surrogate")

    def invert(
        self, view: ScoreView, prior: Prior, rows: Rows, ctx: KeyedContext, snapshot_fracs: tuple[float, ...]
    ) -> Inversion:
        """Descend the surrogate, confirm, evolve; the fractions are of the evolution."""
        chunks = Chunks(ctx)
        start, scores = self._start(prior, rows, ctx)
        better, better_scores, confirmed = self._descend(view, prior, rows, start, scores, chunks, ctx)
        end = self._evolve(view, prior, rows, better, better_scores, chunks, ctx, snapshot_fracs)
        if not confirmed:
            end.notes.append("the query budget did not cover the confirmation of the surrogate's pictures")
        return pictured(end, start, prior, rows, chunks, ctx, complete=confirmed)

    def _start(self, prior: Prior, rows: Rows, ctx: KeyedContext) -> tuple[Tensor, Tensor]:
        """(N, D) the pool's sample-th best for each row's class, and (N,) their scores."""
        if ctx.aids is None:
            raise ValueError(f"'{self.name}' needs the surrogate that `prepare` trains")
        latents, labels = draw_pool(prior, self.config.pool, ctx)
        scores = as_drawn(cast(Answers, ctx.aids["answers"]).scores.cpu(), labels)
        pool = Pool(latents, labels, scores, complete=True)
        places = pool.places(Rows(rows.labels, rows.sample % self.config.pool))
        return latents[places], scores[places, rows.labels]

    def _descend(
        self,
        view: ScoreView,
        prior: Prior,
        rows: Rows,
        start: Tensor,
        scores: Tensor,
        chunks: Chunks,
        ctx: KeyedContext,
    ) -> tuple[Tensor, Tensor, bool]:
        """(N, D) where the surrogate leads if the target agrees, else the start; (N,) scores; whether it was asked."""
        config, aids = self.config, cast(nn.ModuleDict, ctx.aids)
        found = descend(
            start,
            OnExperts(aids["surrogate"], prior, rows.labels, ctx),
            Adam(config.step_size),
            steps=config.steps,
            view=view,
            chunks=chunks,
            ctx=ctx,
            stage=f"{self.name} descent",
            constrain=lambda z: z.clamp(-config.surrogate_box, config.surrogate_box),
            schedule=cosine,
        ).latents.cpu()
        if not affordable(view, len(rows)):
            return start, scores, False
        answers = class_log_probs(view, prior, found, rows.labels, chunks, ctx)
        agreed = answers > scores
        return torch.where(agreed[:, None], found, start), torch.where(agreed, answers, scores), True

    def _evolve(
        self,
        view: ScoreView,
        prior: Prior,
        rows: Rows,
        start: Tensor,
        scores: Tensor,
        chunks: Chunks,
        ctx: KeyedContext,
        fracs: tuple[float, ...],
    ) -> Evolution:
        config = self.config

        def fitness(latents: Tensor, row: Tensor) -> Tensor:
            return class_log_probs(view, prior, latents, rows.labels[row], chunks, ctx)

        return evolve(
            DiagonalCma(start, scores, n_children=config.children, deviation=config.deviation, box=config.box),
            fitness,
            RowStreams(ctx, rows, "evolution"),
            generations=config.generations,
            stop_score=math.inf,
            view=view,
            ctx=ctx,
            stage=self.name,
            fracs=fracs,
        )
