"""MIRROR-w: Adam on latents that are kept where the prior's are, one by one."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

from pydantic import Field

from auditor.attacks.augment import IDENTITY, OPTIMISE, Augmenter
from auditor.attacks.base import Attack, AttackConfig, Decay, Inversion, KeyedContext, Rows
from auditor.attacks.gradient import Adam, descend
from auditor.attacks.initial import search_pool
from auditor.attacks.objectives import Objective, cross_entropy, identity
from auditor.attacks.rows import Chunks, RowStreams, pictured
from auditor.contracts.access import Access
from auditor.contracts.cost import Cost
from auditor.priors.base import Prior
from auditor.targets.views import WhiteBoxView


class MirrorWConfig(AttackConfig):
    """Parameters of MIRROR-w."""

    pool: int = Field(default=2000, ge=1)
    """Prior samples scored for the start (paper: 100,000); raised to the samples wanted per class if fewer."""
    steps: int = Field(default=100, ge=1)
    """Updates (paper: 20,000)."""
    lr: float = Field(default=0.1, gt=0)
    """Peak step size of Adam (paper: 0.2 to 0.25 in StyleGAN's w)."""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    ramp_up: float = Field(default=0.05, ge=0, le=1)
    """Share of the steps in which the step size rises from zero, linearly."""
    ramp_down: float = Field(default=0.25, ge=0, le=1)
    """Share of the steps in which it falls to zero, along half a cosine."""
    identity_weight: float = Field(default=10.0, gt=0)
    """Weight of the cross-entropy."""
    box: float = Field(default=1.0, gt=0)
    """Latents stay within this many standard deviations of the mean, coordinate by coordinate."""
    flip: bool = True
    """Mirror half of the pictures before the target sees them."""
    averaged: int = Field(default=1, ge=1)
    """Random copies, above 1 cropped as well, whose gradients are averaged at every step."""
    channels_last: bool = True


class MirrorW(Attack[MirrorWConfig]):
    """From the best of a shared pool, Adam on the cross-entropy under mirroring, each coordinate clipped to its range.

    What counts as a person lies where the prior's latents do, so every coordinate is clipped to the mean plus and minus
    a few standard deviations after every step. Each row gives back its point of lowest loss.

    Departures: the paper's box in p-space, StyleGAN2's w before its last activation, is a box in z, which is N(0, I)
    for every prior here, hence another step size; the point given back is chosen by each picture's own loss (the
    paper's code: by the batch's mean) and every picture is mirrored on its own; no dropout in the target; fewer steps
    and a smaller pool by default. Adaptive option: `averaged` above 1, as in `auditor.attacks.ppa`.
    """

    name = "mirror-w"
    access = Access.WHITE_BOX
    paper = "An, Tao, Xu, Liu, Shen, Yao, Xu and Zhang, NDSS 2022 (MIRROR), white-box variant"
    Config = MirrorWConfig

    @property
    def adaptive(self) -> bool:
        """Whether gradients are averaged."""
        return self.config.averaged > 1

    def cost(self, attacked: int, samples_per_class: int, n_classes: int) -> Cost:
        """The pool, and `averaged` images a row and step."""
        rows, pool = attacked * samples_per_class, max(self.config.pool, samples_per_class)
        steps = rows * self.config.steps
        seen = steps * self.config.averaged
        return Cost(forward=pool + seen, backward=seen, shared=pool, decodes=pool + 2 * rows, gradient_decodes=steps)

    def invert(
        self, view: WhiteBoxView, prior: Prior, rows: Rows, ctx: KeyedContext, snapshot_fracs: tuple[float, ...]
    ) -> Inversion:
        """One latent per row."""
        config, chunks = self.config, Chunks(ctx)
        size = max(config.pool, int(rows.sample.max()) + 1)
        pool = search_pool(view, prior, size, chunks, ctx, stage=f"{self.name} search", box=config.box)
        start = pool(prior, rows, ctx)
        ranges = replace(OPTIMISE if self.adaptive else IDENTITY, flip=config.flip)
        objective = Objective(
            view,
            prior,
            rows.labels,
            ((config.identity_weight, identity(cross_entropy)),),
            ctx,
            augmenter=Augmenter(RowStreams(ctx, rows, "mirror"), ranges, config.averaged),
            channels_last=config.channels_last,
        )
        end = descend(
            start,
            objective,
            Adam(config.lr, config.betas),
            steps=config.steps,
            view=view,
            chunks=chunks,
            ctx=ctx,
            stage=self.name,
            constrain=lambda z: z.clamp(-config.box, config.box),
            schedule=partial(ramp, up=config.ramp_up, down=config.ramp_down),
            fracs=snapshot_fracs,
            keep_best=True,
        )
        return pictured(end, start, prior, rows, chunks, ctx, complete=pool.complete)


def ramp(step: int, steps: int, *, up: float, down: float) -> float:
    """Step size factor: linear from zero over the first `up` of the way, along a cosine to zero over the last `down`.

    The last step's is zero, so that the point it evaluates is where the descent ends.
    """
    way = (step + 1) / steps
    falling = 0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - way) / down)) if down else 1.0
    return falling * (min(1.0, way / up) if up else 1.0)
