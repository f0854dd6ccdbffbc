"""PPA: plug-and-play attack - search, optimise under augmentation, select what is robust."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from auditor.attacks.adaptive import Erase, Noise, Scrub, blurred
from auditor.attacks.augment import OPTIMISE, SELECT, Augmenter, Change
from auditor.attacks.base import Attack, AttackConfig, Decay, Inversion, KeyedContext, Rows
from auditor.attacks.gradient import Adam, cosine, descend
from auditor.attacks.initial import search_pool
from auditor.attacks.objectives import (
    IDENTITY_LOSSES,
    Objective,
    Term,
    WeightedTerms,
    identity,
    latent_energy,
    latent_shell,
    towards,
)
from auditor.attacks.public_front import blank_front, measure_front, pull_behind_front
from auditor.attacks.rows import Chunks, RowStreams, affordable, paint
from auditor.attacks.selection import best_per_class, robust_confidence
from auditor.contracts.access import Access
from auditor.contracts.cost import Cost
from auditor.priors.base import Prior
from auditor.targets.base import Target
from auditor.targets.views import WhiteBoxView
from auditor.tensors import Snapshot

FEW_CLASSES = 50
"""Below this many classes the Poincaré loss misleads and another is used."""


LEAST_ERASED, LEAST_NOISE, LEAST_BLUR, LARGEST_CAP = 0.1, 0.02, 0.5, 0.95
"""Share of the picture, standard deviation and pixels below which a change, and the probability above which a goal, is
too weak to call the attack adaptive."""


class PpaConfig(AttackConfig):
    """Parameters of PPA; step sizes suit latents ~ N(0, I), where the paper works in StyleGAN2's w."""

    pool: int = Field(default=2000, ge=1)
    """Prior samples scored for the start (paper: 2,000 to 5,000); raised to the candidates of a class if fewer."""
    candidates: int = Field(default=2, ge=1)
    """Latents optimised per wanted sample (paper: 4); the most robust are kept, class by class."""
    steps: int = Field(default=60, ge=1)
    lr: float = Field(default=0.1, gt=0)
    """Step size of Adam, annealed to zero by a cosine."""
    betas: tuple[Decay, Decay] = (0.9, 0.99)
    loss: Literal["auto", "max-margin", "poincare", "cross-entropy"] = "auto"
    """`auto`: max-margin below 50 classes, else Poincaré, as the paper has it."""
    averaged: int = Field(default=1, ge=1)
    """Random copies (crops, and the changes below) whose gradients are averaged at every step."""
    confidence: tuple[Annotated[float, Field(gt=0, le=1)], ...] = ()
    """Probabilities to aim for in place of `loss`, dealt out to a class's candidates in turn; none: as high as it goes.
    (0.5, 0.7, 0.88, 0.95, 1) with as many candidates covers defenses that cap confidence or plant shortcuts to it."""
    erase: float = Field(default=0.0, ge=0, lt=1)
    """Largest share of the picture hidden by a random square in every copy: for models trained on erased images."""
    noise: float = Field(default=0.0, ge=0, le=1)
    """Standard deviation of Gaussian noise added to every copy, in units of the pixel range [0, 1]."""
    scrub: float = Field(default=0.0, ge=0, le=16)
    """Largest standard deviation in pixels of the blur of every copy: against planted triggers."""
    front_weight: float = Field(default=0.0, ge=0)
    """Weight of drawing the features that the private part of the target likes best, alone; above 0 it needs
    `model.public_model` in the manifest: for models of which the early layers are public."""
    latent_weight: float = Field(default=0.1, ge=0)
    """Weight of half the mean squared latent."""
    shell_weight: float = Field(default=1.0, ge=0)
    """Weight of the squared excess of the latent's norm over that of N(0, I)."""
    transforms: int = Field(default=16, ge=1)
    """Random transforms per candidate in the final selection (paper: 100)."""
    channels_last: bool = True


Drawing = Callable[[Tensor], Tensor]
"""(M,) int64 candidates to their (M, C, H, W) pictures in [0, 1], on the CPU."""


@dataclass
class Optimised:
    """What optimising the candidates gave.

    Attributes:
        latents: (N, D) their latents.
        draw: draws the result of any of them.
        path: (fraction, drawing) at the fractions asked for.
        loss: (N,) their last losses, or None when no step could be afforded.
        complete: False when the query budget ended it early.
        notes: remarks for the report.
    """

    latents: Tensor
    draw: Drawing
    path: tuple[tuple[float, Drawing], ...] = ()
    loss: Tensor | None = None
    complete: bool = True
    notes: list[str] = field(default_factory=list)


class Ppa(Attack[PpaConfig]):
    """The best of a pool of prior samples, optimised under random crops, then the most robust under stronger ones.

    The pool is scored once for all classes; a class starts from its best distinct members. The final selection takes,
    per class, the candidates on which the target stays most confident under random crops and mirrors.

    Departures: latents ~ N(0, I) of any prior in place of StyleGAN2's w, hence a penalty that keeps them where the
    prior was trained, another step size and its annealing; crops are drawn per sample (the paper's code draws one per
    batch); the pool is scored without the mirrored copy; fewer candidates and transforms by default.

    Adaptive options, any of which can be combined: `averaged` above 1 takes the mean gradient over several copies,
    which sees through a defense that roughens the loss or answers at random; `confidence` aims for given probabilities;
    `erase`, `noise` and `scrub` change the copies (`auditor.attacks.adaptive` gives the sources); `front_weight` makes
    use of layers that are public (`auditor.attacks.public_front`). With `confidence` the final selection takes the
    candidates that stay nearest to the probability they were made for, with `scrub` it looks at blurred pictures.
    """

    name = "ppa"
    access = Access.WHITE_BOX
    paper = "Struppek, Hintersdorf, De Almeida Correia, Adler and Kersting, ICML 2022, arXiv 2201.12179"
    Config = PpaConfig
    few_classes_loss: Literal["max-margin", "cross-entropy"] = "max-margin"
    """What `auto` means below `FEW_CLASSES`."""

    @property
    def adaptive(self) -> bool:
        """Whether any option that is meant to see through a defense is on, and strong enough to do anything.

        `front_weight` alone does not count: it was not seen to find more (docs/results.md).
        """
        config = self.config
        capped = any(aim <= LARGEST_CAP for aim in config.confidence[: config.candidates])
        changed = config.erase >= LEAST_ERASED or config.noise >= LEAST_NOISE or config.scrub >= LEAST_BLUR
        return config.averaged > 1 or capped or changed

    def inapplicable(self, target: Target) -> str:
        """With `front_weight`, a model of which no layer is known to be public."""
        if not self.config.front_weight or target.card.public_front is not None:
            return ""
        return "no layer of it is known to be public: the manifest names no model.public_model that shares any"

    def aids(self, image_shape: tuple[int, int, int], n_classes: int) -> nn.ModuleDict | None:
        """With `front_weight`, what public pictures look like behind the public layers."""
        return blank_front() if self.config.front_weight else None

    def train_aids(
        self, aids: nn.ModuleDict, view: WhiteBoxView, prior: Prior, public: Tensor, ctx: KeyedContext
    ) -> None:
        """Asks the target nothing."""
        measure_front(aids, view, public, ctx, stage=f"{self.name} front")

    def cost(self, attacked: int, samples_per_class: int, n_classes: int) -> Cost:
        """The pool, `averaged` images a candidate and step, then `transforms` a candidate where there is a choice.

        With `front_weight`, one more a candidate and step, and as many passes through the public layers.
        """
        config = self.config
        rows, tried = attacked * samples_per_class, attacked * samples_per_class * config.candidates
        pool = max(config.pool, samples_per_class * config.candidates)
        steps = tried * config.steps
        chosen = tried if config.candidates > 1 else 0
        behind = steps if config.front_weight else 0
        return Cost(
            forward=pool + steps * config.averaged + chosen * config.transforms + behind,
            backward=steps * config.averaged,
            helper_passes=behind,
            shared=pool,
            decodes=pool + chosen + 2 * rows,
            gradient_decodes=steps,
        )

    def invert(
        self, view: WhiteBoxView, prior: Prior, rows: Rows, ctx: KeyedContext, snapshot_fracs: tuple[float, ...]
    ) -> Inversion:
        """Search, descend, select."""
        config, chunks = self.config, Chunks(ctx)
        tried = self._candidates(rows)
        size = max(config.pool, int(tried.sample.max()) + 1)
        pool = search_pool(view, prior, size, chunks, ctx, stage=f"{self.name} search")
        start = pool(prior, tried, ctx)
        end = self._optimise(view, prior, start, tried, chunks, ctx, snapshot_fracs)
        chosen, covered = self._select(view, end, tried, rows, chunks, ctx)
        return Inversion(
            start=paint(prior, start[chosen], rows.labels, chunks, ctx),
            images=end.draw(chosen),
            snapshots=tuple(Snapshot(frac, draw(chosen)) for frac, draw in end.path),
            notes=end.notes + chunks.notes,
            complete=pool.complete and end.complete and covered,
        )

    def _candidates(self, rows: Rows) -> Rows:
        """`candidates` rows for each wanted one, numbered through within their class."""
        count = self.config.candidates
        labels = rows.labels.repeat_interleave(count)
        turn = torch.arange(count).repeat(len(rows))
        return Rows(labels, rows.sample.repeat_interleave(count) * count + turn)

    def _optimise(
        self,
        view: WhiteBoxView,
        prior: Prior,
        start: Tensor,
        tried: Rows,
        chunks: Chunks,
        ctx: KeyedContext,
        fracs: tuple[float, ...],
    ) -> Optimised:
        """Descend from the candidates' latents."""
        config = self.config
        further: WeightedTerms = ()
        notes: list[str] = []
        if config.front_weight:
            pictures = paint(prior, start, tried.labels, chunks, ctx)
            pull, notes = pull_behind_front(
                view, pictures, tried, steps=config.steps, lr=config.lr, chunks=chunks, ctx=ctx, stage=self.name
            )
            further = ((config.front_weight, pull),)
        end = descend(
            start,
            self._objective(view, prior, tried, ctx, further),
            Adam(config.lr, config.betas),
            steps=config.steps,
            view=view,
            chunks=chunks,
            ctx=ctx,
            stage=self.name,
            schedule=cosine,
            fracs=fracs,
        )

        def drawing(latents: Tensor) -> Drawing:
            return lambda index: paint(prior, latents[index], tried.labels[index], chunks, ctx)

        path = tuple((frac, drawing(latents)) for frac, latents in end.path)
        return Optimised(end.latents, drawing(end.latents), path, end.loss, end.complete, notes + end.notes)

    def _objective(
        self, view: WhiteBoxView, prior: Prior, tried: Rows, ctx: KeyedContext, further: WeightedTerms = ()
    ) -> Objective:
        config = self.config
        terms = (
            (1.0, self._identity(view, tried)),
            (config.latent_weight, latent_energy),
            (config.shell_weight, latent_shell),
            *further,
        )
        augmenter = self._augmenter(tried, ctx, "")
        return Objective(view, prior, tried.labels, terms, ctx, augmenter=augmenter, channels_last=config.channels_last)

    def _identity(self, view: WhiteBoxView, tried: Rows) -> Term:
        if self.config.confidence:
            return towards(self._goals(tried))
        loss = self.config.loss
        if loss == "auto":
            loss = self.few_classes_loss if view.n_classes < FEW_CLASSES else "poincare"
        return identity(IDENTITY_LOSSES[loss])

    def _goals(self, tried: Rows) -> Tensor:
        """(N,) the probability each candidate aims for."""
        swept = torch.tensor(self.config.confidence)
        return swept[tried.sample % len(swept)]

    def _augmenter(self, tried: Rows, ctx: KeyedContext, suffix: str) -> Augmenter:
        """Random copies for one descent; `suffix` tells its draws from those of another."""
        config = self.config
        copies = config.averaged

        def streams(purpose: str) -> RowStreams:
            return RowStreams(ctx, tried, purpose + suffix)

        changes: list[Change] = []
        if config.scrub:
            changes.append(Scrub(streams("scrub"), copies, config.scrub))
        if config.erase:
            changes.append(Erase(streams("erase"), copies, config.erase))
        if config.noise:
            changes.append(Noise(streams("noise"), copies, config.noise))
        return Augmenter(streams("augment"), OPTIMISE, copies, tuple(changes))

    def _select(
        self, view: WhiteBoxView, end: Optimised, tried: Rows, rows: Rows, chunks: Chunks, ctx: KeyedContext
    ) -> tuple[Tensor, bool]:
        """(N,) which candidate each wanted row keeps, and whether the budget covered the robust selection."""
        config = self.config
        if config.candidates == 1:
            return torch.arange(len(rows)), True
        if not affordable(view, len(tried) * config.transforms):
            end.notes.append("the query budget did not cover the final selection: the last loss chose")
            losses = torch.zeros(len(tried)) if end.loss is None else end.loss.cpu()
            return best_per_class(-losses, tried, rows), False
        images = end.draw(torch.arange(len(tried)))
        if config.scrub:
            images = blurred(images, config.scrub)
        scores = robust_confidence(
            view,
            images,
            tried,
            transforms=config.transforms,
            ranges=SELECT,
            chunks=chunks,
            ctx=ctx,
            stage=f"{self.name} selection",
        )
        if config.confidence:
            scores = -(scores.clamp_min(1e-12) / self._goals(tried)).log().abs()
        return best_per_class(scores, tried, rows), True
