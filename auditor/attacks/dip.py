"""DIP: the weights of an untrained decoder, one per picture, are fitted until the target sees the class."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from auditor.attacks.base import Attack, AttackConfig, Inversion, KeyedContext, Rows
from auditor.attacks.gradient import Adam, RowObjective, descend
from auditor.attacks.initial import RandomInit
from auditor.attacks.objectives import Objective, cross_entropy, identity
from auditor.attacks.picture import jitter
from auditor.attacks.rows import Chunks, RowStreams, pictured
from auditor.contracts.access import Access
from auditor.contracts.cost import Cost
from auditor.priors.base import Prior, Trait
from auditor.targets.views import WhiteBoxView


class DipAttackConfig(AttackConfig):
    """Parameters of the DIP attack."""

    steps: int = Field(default=300, ge=1)
    """Updates; stopping early is the regulariser."""
    lr: float = Field(default=0.05, gt=0)
    """Step size of Adam, in standard deviations of the initial weights."""
    noise: float = Field(default=0.03, ge=0)
    """Standard deviation of the noise on the latents at every step; 0: none."""
    shift: int = Field(default=2, ge=0)
    """Largest random shift of the picture in pixels at every step; 0: none."""
    flip: bool = True
    """Mirror half of the pictures at every step."""
    channels_last: bool = True


class Dip(Attack[DipAttackConfig]):
    """Adam on the weights of an untrained convolutional decoder (prior `dip`), one decoder per picture.

    Minimises cross-entropy under random shifts and mirrors of the picture and noise on the latents; the decoder's
    structure and the small number of steps are all that keeps the picture natural. With another knowledge-free prior
    it descends over that prior's latents instead.

    Departures: the paper is about restoration; as an attack it is a folk baseline. The noise is on the weights, where
    the paper jitters the decoder's fixed input; shifts and mirrors are drawn per sample.
    """

    name = "dip"
    access = Access.WHITE_BOX
    paper = "own; on the deep image prior of Ulyanov, Vedaldi and Lempitsky, CVPR 2018, arXiv 1711.10925"
    Config = DipAttackConfig
    needs = frozenset({Trait.PIXELS})
    default_prior = "dip"

    def cost(self, attacked: int, samples_per_class: int, n_classes: int) -> Cost:
        """One image a row and step."""
        rows = attacked * samples_per_class
        steps = rows * self.config.steps
        return Cost(forward=steps, backward=steps, decodes=2 * rows, gradient_decodes=steps)

    def invert(
        self, view: WhiteBoxView, prior: Prior, rows: Rows, ctx: KeyedContext, snapshot_fracs: tuple[float, ...]
    ) -> Inversion:
        """One decoder per row, from random weights."""
        config, chunks = self.config, Chunks(ctx)
        start = RandomInit()(prior, rows, ctx)
        objective: RowObjective = Objective(
            view,
            prior,
            rows.labels,
            ((1.0, identity(cross_entropy)),),
            ctx,
            augmenter=jitter(ctx, rows, config.shift, flip=config.flip),
            channels_last=config.channels_last,
        )
        if config.noise:
            objective = NoisyLatents(objective, RowStreams(ctx, rows, "noise"), config.noise)
        end = descend(
            start,
            objective,
            Adam(config.lr),
            steps=config.steps,
            view=view,
            chunks=chunks,
            ctx=ctx,
            stage=self.name,
            fracs=snapshot_fracs,
        )
        return pictured(end, start, prior, rows, chunks, ctx)


class NoisyLatents:
    """An objective seen through noise on its latents, fresh at every step and of each row's own stream.

    Args:
        inner: the objective.
        streams: one generator per row.
        deviation: standard deviation of the noise, in latent units.
    """

    def __init__(self, inner: RowObjective, streams: RowStreams, deviation: float) -> None:
        self._inner, self._streams, self._deviation = inner, streams, deviation
        self._step, self._noise = -1, torch.empty(0)

    @property
    def queries_per_row(self) -> int:
        """As the inner objective's."""
        return self._inner.queries_per_row

    def __call__(self, latents: Tensor, index: Tensor, step: int) -> Tensor:
        """(B, D) latents of rows `index` to (B,) losses; steps must come in order."""
        while self._step < step:
            self._noise = self._streams.normal(latents.shape[1])
            self._step += 1
        noise = self._noise[index].to(latents.device)
        return self._inner(latents + self._deviation * noise, index, step)
