"""Pixel descent with total variation: the baseline of an attacker who knows nothing but that pictures are smooth."""

from __future__ import annotations

from pydantic import Field

from auditor.attacks.base import Attack, AttackConfig, Inversion, KeyedContext, Rows
from auditor.attacks.gradient import Adam, descend
from auditor.attacks.initial import RandomInit
from auditor.attacks.objectives import Objective, cross_entropy, identity, latent_energy
from auditor.attacks.picture import jitter, total_variation
from auditor.attacks.rows import Chunks, pictured
from auditor.contracts.access import Access
from auditor.contracts.cost import Cost
from auditor.priors.base import Prior, Trait
from auditor.targets.views import WhiteBoxView


class PixelTvConfig(AttackConfig):
    """Parameters of pixel descent."""

    steps: int = Field(default=300, ge=1)
    """Updates."""
    lr: float = Field(default=0.05, gt=0)
    """Step size of Adam, in latent units: with the prior `pixels` a quarter of it in pixel values."""
    tv_weight: float = Field(default=10.0, ge=0)
    """Weight of the mean squared difference of neighbouring pixels beside the cross-entropy."""
    l2_weight: float = Field(default=0.01, ge=0)
    """Weight of half the mean squared latent: with the prior `pixels`, the distance to grey."""
    shift: int = Field(default=2, ge=0)
    """Largest random shift in pixels at every step; 0: none."""
    flip: bool = True
    """Mirror half of the pictures at every step."""
    box: float = Field(default=2.0, gt=0)
    """Latents stay within [-box, box]; 2 is the whole range of the prior `pixels`."""
    channels_last: bool = True


class PixelTv(Attack[PixelTvConfig]):
    """Adam on the pixels: cross-entropy, total variation and distance to grey, under random shifts and mirrors.

    Starts from noise around grey; convinces almost any target. Without shifts and mirrors it does so by patterns that
    no other model recognises; what it does reveal needed no public image.

    Departures: a box and projection in place of pixels behind a sigmoid, and grey in place of black as what the L2 term
    prefers; shifts and mirrors are drawn per sample.
    """

    name = "pixel-tv"
    access = Access.WHITE_BOX
    paper = "Mahendran and Vedaldi, CVPR 2015, arXiv 1412.0035; jitter as in Yin et al., CVPR 2020, arXiv 1912.08795"
    Config = PixelTvConfig
    needs = frozenset({Trait.PIXELS})
    default_prior = "pixels"

    def cost(self, attacked: int, samples_per_class: int, n_classes: int) -> Cost:
        """One image a row and step."""
        rows = attacked * samples_per_class
        steps = rows * self.config.steps
        return Cost(forward=steps, backward=steps, decodes=2 * rows, gradient_decodes=steps)

    def invert(
        self, view: WhiteBoxView, prior: Prior, rows: Rows, ctx: KeyedContext, snapshot_fracs: tuple[float, ...]
    ) -> Inversion:
        """One picture per row, from noise."""
        config, chunks = self.config, Chunks(ctx)
        start = RandomInit()(prior, rows, ctx).clamp(-config.box, config.box)
        objective = Objective(
            view,
            prior,
            rows.labels,
            (
                (1.0, identity(cross_entropy)),
                (config.tv_weight, total_variation),
                (config.l2_weight, latent_energy),
            ),
            ctx,
            augmenter=jitter(ctx, rows, config.shift, flip=config.flip),
            channels_last=config.channels_last,
        )
        end = descend(
            start,
            objective,
            Adam(config.lr),
            steps=config.steps,
            view=view,
            chunks=chunks,
            ctx=ctx,
            stage=self.name,
            constrain=lambda z: z.clamp(-config.box, config.box),
            fracs=snapshot_fracs,
        )
        return pictured(end, start, prior, rows, chunks, ctx)
