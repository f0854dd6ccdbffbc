"""MI-Face: gradient descent on the target's doubt, over pixels, with the paper's stopping rule for every picture."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import softmax

from auditor.attacks.adaptive import blurred
from auditor.attacks.base import Attack, AttackConfig, Inversion, KeyedContext, Rows
from auditor.attacks.gradient import Nesterov, descend
from auditor.attacks.initial import RandomInit
from auditor.attacks.objectives import Objective, identity
from auditor.attacks.rows import Chunks, pictured
from auditor.contracts.access import Access
from auditor.contracts.cost import Cost
from auditor.priors.base import Prior, Trait
from auditor.targets.views import WhiteBoxView


class MiFaceConfig(AttackConfig):
    """Parameters of MI-Face; the defaults are the paper's, but for the number of steps and the start."""

    steps: int = Field(default=1000, ge=1)
    """At most (paper: 5,000)."""
    lr: float = Field(default=1.6, gt=0)
    """Step size in latent units; with the prior `pixels` this is 0.1 in pixel values, the paper's."""
    window: int = Field(default=100, ge=1)
    """A picture whose cost is not below the largest of its last so many is left alone."""
    confidence: float = Field(default=0.99, gt=0, le=1)
    """A picture that reaches this probability is left alone."""
    smoothing: float = Field(default=0.0, ge=0)
    """Deviation, in pixels, of a blur after every update; 0: none."""
    noise: float = Field(default=0.1, ge=0)
    """Standard deviation of the start around the prior's mean, in latent units; 0: every sample of a class is alike."""
    box: float = Field(default=2.0, gt=0)
    """Latents stay within [-box, box]; 2 is the whole range of the prior `pixels`."""
    channels_last: bool = True


class MiFace(Attack[MiFaceConfig]):
    """Gradient descent on `1 - p_y`; each picture stops on its own, and the best of its way is given back.

    A picture stops when the target is confident, or when its cost is not below the largest of its last `window` costs.
    Stopped pictures cost no more queries. Where the target gives the class next to no probability the gradient is next
    to nothing and the picture stays as it was: the method's own weakness, kept.

    Departures: starts from weak noise around grey in place of zeros, so that the samples of a class differ; the
    optional smoothing is a blur in place of denoising and sharpening filters; fewer steps by default. The stopping rule
    is the paper's (the Adversarial Robustness Toolbox goes on exactly where it says to stop).
    """

    name = "mi-face"
    access = Access.WHITE_BOX
    paper = "Fredrikson, Jha and Ristenpart, CCS 2015 (Model inversion attacks that exploit confidence information)"
    Config = MiFaceConfig
    needs = frozenset({Trait.PIXELS})
    default_prior = "pixels"

    def cost(self, attacked: int, samples_per_class: int, n_classes: int) -> Cost:
        """At most one image a row and step."""
        rows = attacked * samples_per_class
        steps = rows * self.config.steps
        smoothed = steps if self.config.smoothing else 0
        return Cost(forward=steps, backward=steps, decodes=2 * rows + smoothed, gradient_decodes=steps, bound=True)

    def invert(
        self, view: WhiteBoxView, prior: Prior, rows: Rows, ctx: KeyedContext, snapshot_fracs: tuple[float, ...]
    ) -> Inversion:
        """One picture per row, from noise around grey."""
        config, chunks = self.config, Chunks(ctx)
        start = config.noise * RandomInit()(prior, rows, ctx)
        terms = ((1.0, identity(doubt)),)
        end = descend(
            start,
            Objective(view, prior, rows.labels, terms, ctx, channels_last=config.channels_last),
            Nesterov(config.lr, momentum=0.0),
            steps=config.steps,
            view=view,
            chunks=chunks,
            ctx=ctx,
            stage=self.name,
            constrain=lambda z: self._process(z, prior, ctx),
            fracs=snapshot_fracs,
            keep_best=True,
            stop=StandsStill(len(rows), 1 - config.confidence, config.window),
        )
        return pictured(end, start, prior, rows, chunks, ctx)

    def _process(self, latents: Tensor, prior: Prior, ctx: KeyedContext) -> Tensor:
        """(B, D) latents after an update: within the box, and smoothed where asked for."""
        latents = latents.clamp(-self.config.box, self.config.box)
        if not self.config.smoothing:
            return latents
        with torch.no_grad():
            smooth = blurred(prior.decode(latents), self.config.smoothing)
        return prior.project(smooth, ctx).clamp(-self.config.box, self.config.box)


def doubt(logits: Tensor, labels: Tensor) -> Tensor:
    """`1 - p_y`: (B, K) logits and (B,) labels to (B,) in [0, 1]."""
    return 1 - softmax(logits, dim=1).gather(1, labels[:, None]).squeeze(1)


class StandsStill:
    """The paper's stopping rule, row by row.

    Args:
        n_rows: rows of the descent.
        below: a row of at most this cost is done.
        window: so is one whose cost is not below the largest of its last `window` costs, once it has as many.
    """

    def __init__(self, n_rows: int, below: float, window: int) -> None:
        self._below = below
        self._recent = torch.full((window, n_rows), torch.inf)

    def __call__(self, losses: Tensor, index: Tensor, step: int) -> Tensor:
        """(M,) costs of rows `index` at `step` to the mask of those that are done."""
        costs = losses.cpu()
        done = (costs <= self._below) | (costs >= self._recent[:, index].amax(dim=0))
        self._recent[step % len(self._recent), index] = costs
        return done.to(losses.device)
