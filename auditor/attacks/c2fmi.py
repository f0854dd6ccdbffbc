"""C2FMI: aim at the embedding that a certain answer stands for, then refine by differential evolution on the target."""

from __future__ import annotations

import math
from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from auditor.attacks.base import Attack, AttackConfig, Inversion, KeyedContext, Rows
from auditor.attacks.evolution import Evolution, evolve
from auditor.attacks.gradient import Adam, Descent, descend
from auditor.attacks.rows import Chunks, RowStreams, affordable, class_log_probs, pictured
from auditor.attacks.score_map import Aim, Components, ScoreMap
from auditor.attacks.strategies import Differential
from auditor.contracts.access import Access
from auditor.contracts.cost import Cost
from auditor.priors.base import Prior
from auditor.targets.views import ScoreView


class C2fmiConfig(AttackConfig):
    """Parameters of C2FMI."""

    public_images: int = Field(default=10_000, ge=2)
    """Public images, at most, on which the target is asked once to train the map (paper: 150,000)."""
    components: int = Field(default=64, ge=1)
    """Coordinates of the embedding."""
    width: int = Field(default=256, ge=1)
    """Hidden units of the map from scores to embeddings."""
    epochs: int = Field(default=20, ge=1)
    batch_size: int = Field(default=128, ge=2)
    lr: float = Field(default=1e-3, gt=0)
    """Step size of the map's training; eight tenths of it after every second epoch."""
    top: int = Field(default=10, ge=1)
    """Scores the map looks at; the others count as the floor."""
    candidates: int = Field(default=16, ge=1)
    """Latents per row that the coarse stage brings near the embedding."""
    coarse_steps: int = Field(default=20, ge=1)
    coarse_lr: float = Field(default=0.1, gt=0)
    """Step size of the coarse stage (Adam)."""
    kept: int = Field(default=10, ge=1)
    """Candidates that enter the population."""
    population: int = Field(default=32, ge=3)
    """Members per row; what the candidates leave free is filled with mixtures of them."""
    generations: int = Field(default=30, ge=1)
    """Of the fine stage (paper: 300 to 500)."""
    pull: float = Field(default=0.02, ge=0)
    """Share of the way to the best member that a child goes."""
    spread: float = Field(default=0.5, ge=0)
    """Factor on the difference of two members (a public port: 0.1)."""
    keep: float = Field(default=0.5, ge=0, lt=1)
    """Probability that a coordinate stays the parent's."""
    box: float = Field(default=3.0, gt=0)
    """Latents stay within this many standard deviations of the mean, coordinate by coordinate."""

    @property
    def first(self) -> int:
        """Candidates that enter a population."""
        return min(self.kept, self.candidates, self.population)


class C2fmi(Attack[C2fmiConfig]):
    """From coarse to fine: a map from scores to embeddings says what a class looks like, evolution works it out.

    Once per target, public images are scored and a map is trained from their scores to their embeddings. The coarse
    stage gives it the scores of a target that is certain of the class and brings latents near the embedding it
    answers with, without asking the target. The best of them and mixtures of them are the first population of a
    differential evolution whose fitness is the target's log-probability. Queries: one per public image while the map
    is trained; for each row candidates + population - kept, then population per generation.

    Departures: the embedding is whitened principal components of the public images, since no pretrained face network
    may come along (on aligned faces at 32x32 this was enough: the coarse stage alone brought an independent classifier
    from 4 % to over 50 %); the coarse stage compares directions instead of squared distances, since the map's answer
    is a mean and so too short; log-probabilities count from their public mean up instead of from -50, so that a
    certain answer is no stranger to the map; no dropout; latents ~ N(0, I) of any prior instead of StyleGAN2's w, with
    wider steps; a tenth of the generations. Raw log-probabilities of parent and child are compared, and the picture
    kept is the best by its own score (a public port normalises each generation separately and selects by outdated
    scores).
    """

    name = "c2fmi"
    access = Access.SCORE
    paper = "Ye, Luo, Naseem, Yang, Shi and Jia, IEEE TDSC 2023 (C2FMI)"
    Config = C2fmiConfig

    def cost(self, attacked: int, samples_per_class: int, n_classes: int) -> Cost:
        """Scores of candidates, mixtures and children; the public images at most."""
        config, rows = self.config, attacked * samples_per_class
        members = config.candidates + config.population - config.first
        forward = rows * (members + config.population * config.generations)
        passes = rows * config.candidates * config.coarse_steps
        return Cost(
            forward=forward,
            once=config.public_images,
            decodes=forward + 2 * rows,
            gradient_decodes=passes,
            helper_passes=passes,
            bound=True,
        )

    def aids(self, image_shape: tuple[int, int, int], n_classes: int) -> nn.ModuleDict:
        """The embedder and the map."""
        config = self.config
        embedder = Components(image_shape, config.components)
        score_map = ScoreMap(n_classes, embedder.directions.shape[1], config.width, config.top)
        return nn.ModuleDict({"embedder": embedder, "map": score_map})

    def train_aids(self, aids: nn.ModuleDict, view: ScoreView, prior: Prior, public: Tensor, ctx: KeyedContext) -> None:
        """Fit the embedder, ask the target about each public image once, train the map."""
        config, chunks = self.config, Chunks(ctx)
        images = public[torch.randperm(len(public), generator=ctx.rng("public"))[: config.public_images]]
        embedder, score_map = cast(Components, aids["embedder"]), cast(ScoreMap, aids["map"])
        embedder.fit(images, ctx.rng("components").initial_seed())

        def ask(part: slice) -> tuple[Tensor, Tensor]:
            seen = images[part].to(ctx.device)
            with torch.no_grad(), ctx.autocast():
                scores = view.log_probs(seen).float()
            ctx.tick(f"{self.name} public scores", part.stop, len(images))
            return scores, embedder(seen)

        parts = chunks.map(len(images), ask)
        scores, embeddings = torch.cat([each for each, _ in parts]), torch.cat([each for _, each in parts])
        score_map.floor.copy_(scores.mean().clamp_max(-1e-3))
        self._train_map(score_map, scores, embeddings, ctx)

    def _train_map(self, score_map: nn.Module, scores: Tensor, embeddings: Tensor, ctx: KeyedContext) -> None:
        config, draws = self.config, ctx.rng("map")
        optimizer = torch.optim.Adam(score_map.parameters(), lr=config.lr)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.8)
        for epoch in range(config.epochs):
            for batch in torch.randperm(len(scores), generator=draws).to(scores.device).split(config.batch_size):
                loss = mse_loss(score_map(scores[batch]), embeddings[batch])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            schedule.step()
            ctx.tick(f"{self.name} map", epoch + 1, config.epochs)

    def invert(
        self, view: ScoreView, prior: Prior, rows: Rows, ctx: KeyedContext, snapshot_fracs: tuple[float, ...]
    ) -> Inversion:
        """Coarse, then fine; the fractions are of the fine stage."""
        chunks = Chunks(ctx)
        start, coarse = self._aim(view, prior, rows, chunks, ctx)
        end = self._refine(view, prior, rows, coarse, chunks, ctx, snapshot_fracs)
        return pictured(end, start, prior, rows, chunks, ctx)

    def _aim(
        self, view: ScoreView, prior: Prior, rows: Rows, chunks: Chunks, ctx: KeyedContext
    ) -> tuple[Tensor, Descent]:
        """(N, D) where each row begins, and its candidates brought near the embedding: N * candidates latents."""
        config = self.config
        if ctx.aids is None:
            raise ValueError(f"'{self.name}' needs the map that `prepare` trains")
        labels = rows.labels.repeat_interleave(config.candidates)
        begin = RowStreams(ctx, rows, "init").normal(config.candidates, 2, prior.latent_dim).mean(dim=2)
        with torch.no_grad():
            goals = cast(ScoreMap, ctx.aids["map"]).certain(labels.to(ctx.device))
        coarse = descend(
            begin.flatten(0, 1),
            Aim(ctx.aids["embedder"], goals, prior, labels, ctx),
            Adam(config.coarse_lr),
            steps=config.coarse_steps,
            view=view,
            chunks=chunks,
            ctx=ctx,
            stage=f"{self.name} coarse",
            constrain=lambda z: z.clamp(-config.box, config.box),
        )
        return begin[:, 0], coarse

    def _refine(
        self,
        view: ScoreView,
        prior: Prior,
        rows: Rows,
        coarse: Descent,
        chunks: Chunks,
        ctx: KeyedContext,
        fracs: tuple[float, ...],
    ) -> Evolution:
        """Differential evolution from the best candidates; where the budget forbids it, the one nearest its goal."""
        config, R = self.config, len(rows)
        candidates = coarse.latents.cpu().view(R, config.candidates, -1)
        if not affordable(view, R * (config.candidates + config.population - config.first)):
            losses = cast(Tensor, coarse.loss).cpu().view(R, -1)
            nearest = candidates[torch.arange(R), losses.argmin(dim=1)]
            note = "the query budget did not cover a population: the coarse stage chose"
            return Evolution(nearest, -losses.amin(dim=1), tuple((frac, nearest) for frac in fracs), False, [note])

        def fitness(latents: Tensor, row: Tensor) -> Tensor:
            return class_log_probs(view, prior, latents, rows.labels[row], chunks, ctx)

        def rate(latents: Tensor) -> Tensor:
            return fitness(latents.flatten(0, 1), torch.arange(R).repeat_interleave(latents.shape[1])).view(R, -1)

        scores, order = rate(candidates).sort(dim=1, descending=True, stable=True)
        kept = candidates.gather(1, order[:, : config.first, None].expand(-1, -1, candidates.shape[2]))
        scores = scores[:, : config.first]
        if config.first < config.population:
            mixed = self._mixtures(kept, RowStreams(ctx, rows, "population"))
            kept, scores = torch.cat([kept, mixed], dim=1), torch.cat([scores, rate(mixed)], dim=1)
        return evolve(
            Differential(kept, scores, pull=config.pull, spread=config.spread, keep=config.keep, box=config.box),
            fitness,
            RowStreams(ctx, rows, "evolution"),
            generations=config.generations,
            stop_score=math.inf,
            view=view,
            ctx=ctx,
            stage=self.name,
            fracs=fracs,
        )

    def _mixtures(self, kept: Tensor, streams: RowStreams) -> Tensor:
        """(R, population - kept, D): half of one member and a quarter of two others, seven tenths of it, and noise."""
        R, first, D = kept.shape
        count = self.config.population - first
        places = (streams.uniform(count, 3) * first).long().clamp(max=first - 1)
        chosen = kept.gather(1, places.view(R, -1, 1).expand(-1, -1, D)).view(R, count, 3, D)
        mixed = (chosen * torch.tensor([0.5, 0.25, 0.25])[:, None]).sum(dim=2)
        return (0.7 * mixed + 0.3 * streams.normal(count, D)).clamp(-self.config.box, self.config.box)
