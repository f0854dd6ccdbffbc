"""PPA: plug-and-play attack - search, optimise under augmentation, select what is robust."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from auditor.attacks.augment import OPTIMISE, SELECT, Augmenter
from auditor.attacks.base import Attack, AttackConfig, Inversion, KeyedContext, Rows
from auditor.attacks.gradient import Adam, Descent, cosine, descend
from auditor.attacks.initial import search_pool
from auditor.attacks.objectives import IDENTITY_LOSSES, Objective, identity, latent_energy, latent_shell
from auditor.attacks.rows import Chunks, RowStreams, affordable, paint
from auditor.attacks.selection import best_per_class, robust_confidence
from auditor.contracts.access import Access
from auditor.priors.base import Prior
from auditor.targets.views import WhiteBoxView
from auditor.tensors import Snapshot

FEW_CLASSES = 50
"""Below this many classes the Poincaré loss misleads and max-margin is used."""


class PpaConfig(AttackConfig):
    """Parameters of PPA; step sizes suit latents ~ N(0, I), where the paper works in StyleGAN2's w."""

    pool: int = Field(default=2000, ge=1)
    """Prior samples scored for the start (paper: 2,000 to 5,000); raised to the candidates of a class if fewer."""
    candidates: int = Field(default=2, ge=1)
    """Latents optimised per wanted sample (paper: 4); the most robust are kept, class by class."""
    steps: int = Field(default=60, ge=1)
    lr: float = Field(default=0.1, gt=0)
    """Step size of Adam, annealed to zero by a cosine."""
    betas: tuple[float, float] = (0.9, 0.99)
    loss: Literal["auto", "max-margin", "poincare", "cross-entropy"] = "auto"
    """`auto`: max-margin below 50 classes, else Poincaré, as the paper has it."""
    averaged: int = Field(default=1, ge=1)
    """Random crops whose gradients are averaged at every step; above 1 the attack is adaptive."""
    latent_weight: float = Field(default=0.1, ge=0)
    """Weight of half the mean squared latent."""
    shell_weight: float = Field(default=1.0, ge=0)
    """Weight of the squared excess of the latent's norm over that of N(0, I)."""
    transforms: int = Field(default=16, ge=1)
    """Random transforms per candidate in the final selection (paper: 100)."""
    channels_last: bool = True


class Ppa(Attack[PpaConfig]):
    """The best of a pool of prior samples, optimised under random crops, then the most robust under stronger ones.

    The pool is scored once for all classes; a class starts from its best distinct members. The final selection takes,
    per class, the candidates on which the target stays most confident under random crops and mirrors.

    Departures: latents ~ N(0, I) of any prior in place of StyleGAN2's w, hence a penalty that keeps them where the
    prior was trained, another step size and its annealing; crops are drawn per sample (the paper's code draws one per
    batch); the pool is scored without the mirrored copy; fewer candidates and transforms by default. With `averaged`
    above 1 the gradient is the mean over several crops, which sees through a defense that only roughens the loss.
    """

    name = "ppa"
    access = Access.WHITE_BOX
    paper = "Struppek, Hintersdorf, De Almeida Correia, Adler and Kersting, ICML 2022, arXiv 2201.12179"
    Config = PpaConfig

    @property
    def adaptive(self) -> bool:
        """Whether gradients are averaged over several augmentations."""
        return self.config.averaged > 1

    def invert(
        self, view: WhiteBoxView, prior: Prior, rows: Rows, ctx: KeyedContext, snapshot_fracs: tuple[float, ...]
    ) -> Inversion:
        """Search, descend, select."""
        config, chunks = self.config, Chunks(ctx)
        tried = self._candidates(rows)
        size = max(config.pool, int(tried.sample.max()) + 1)
        pool = search_pool(view, prior, size, chunks, ctx, stage=f"{self.name} search")
        start = pool(prior, tried, ctx)
        end = descend(
            start,
            self._objective(view, prior, tried, ctx),
            Adam(config.lr, config.betas),
            steps=config.steps,
            view=view,
            chunks=chunks,
            ctx=ctx,
            stage=self.name,
            schedule=cosine,
            fracs=snapshot_fracs,
        )
        chosen, covered = self._select(view, prior, end, tried, rows, chunks, ctx)
        return Inversion(
            start=paint(prior, start[chosen], rows.labels, chunks, ctx),
            images=paint(prior, end.latents[chosen], rows.labels, chunks, ctx),
            snapshots=tuple(Snapshot(frac, paint(prior, z[chosen], rows.labels, chunks, ctx)) for frac, z in end.path),
            notes=end.notes + chunks.notes,
            complete=pool.complete and end.complete and covered,
        )

    def _candidates(self, rows: Rows) -> Rows:
        """`candidates` rows for each wanted one, numbered through within their class."""
        count = self.config.candidates
        labels = rows.labels.repeat_interleave(count)
        turn = torch.arange(count).repeat(len(rows))
        return Rows(labels, rows.sample.repeat_interleave(count) * count + turn)

    def _objective(self, view: WhiteBoxView, prior: Prior, tried: Rows, ctx: KeyedContext) -> Objective:
        config = self.config
        loss = config.loss
        if loss == "auto":
            loss = "max-margin" if view.n_classes < FEW_CLASSES else "poincare"
        terms = (
            (1.0, identity(IDENTITY_LOSSES[loss])),
            (config.latent_weight, latent_energy),
            (config.shell_weight, latent_shell),
        )
        augmenter = Augmenter(RowStreams(ctx, tried, "augment"), OPTIMISE, config.averaged)
        return Objective(view, prior, tried.labels, terms, ctx, augmenter=augmenter, channels_last=config.channels_last)

    def _select(
        self,
        view: WhiteBoxView,
        prior: Prior,
        end: Descent,
        tried: Rows,
        rows: Rows,
        chunks: Chunks,
        ctx: KeyedContext,
    ) -> tuple[torch.Tensor, bool]:
        """(N,) which candidate each wanted row keeps, and whether the budget covered the robust selection."""
        transforms = self.config.transforms
        if self.config.candidates == 1:
            return torch.arange(len(rows)), True
        if affordable(view, len(tried) * transforms):
            images = paint(prior, end.latents, tried.labels, chunks, ctx)
            scores = robust_confidence(
                view,
                images,
                tried,
                transforms=transforms,
                ranges=SELECT,
                chunks=chunks,
                ctx=ctx,
                stage=f"{self.name} selection",
            )
            return best_per_class(scores, tried, rows), True
        end.notes.append("the query budget did not cover the final selection: the last loss chose")
        losses = torch.zeros(len(tried)) if end.loss is None else end.loss.cpu()
        return best_per_class(-losses, tried, rows), False
