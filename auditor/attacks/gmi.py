"""GMI: generative model inversion with a GAN prior and its critic."""

from __future__ import annotations

from pydantic import Field

from auditor.attacks.base import Attack, AttackConfig, Inversion, KeyedContext, Rows
from auditor.attacks.gradient import Nesterov, descend
from auditor.attacks.initial import RandomInit
from auditor.attacks.objectives import Objective, Term, cross_entropy, identity, unreal
from auditor.attacks.rows import Chunks, pictured
from auditor.contracts.access import Access
from auditor.contracts.cost import Cost
from auditor.priors.base import Prior, Trait
from auditor.targets.views import WhiteBoxView


class GmiConfig(AttackConfig):
    """Parameters of GMI; the defaults are the paper's, but for the number of steps."""

    steps: int = Field(default=300, ge=1)
    """Updates (the paper's code: 1,500)."""
    lr: float = Field(default=0.02, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    identity_weight: float = Field(default=100.0, gt=0)
    """Weight of the cross-entropy beside the critic's score."""
    critic_weight: float = Field(default=1.0, ge=0)
    clip: float = Field(default=1.0, gt=0)
    """Latents stay within [-clip, clip]."""
    batch_equivalent: int = Field(default=60, ge=1)
    """Rows whose mean the paper's code minimises: each row's gradient is divided by it."""
    channels_last: bool = True


class Gmi(Attack[GmiConfig]):
    """Momentum descent of cross-entropy minus the critic's score over the latents of a GAN; every seed is kept.

    The loss is 100 times the cross-entropy minus the critic, the update is Nesterov's in look-ahead variables, and
    latents are clipped to [-1, 1] after it.

    Departures: the paper's code minimises the mean over a batch of 60, so its step size silently depends on the batch;
    here the loss is per sample and the gradient scaled by 1/60 (so 100/60 on the cross-entropy), which gives the same
    updates at any batch size. The gradient is taken with respect to latents only. Fewer steps by default.
    """

    name = "gmi"
    access = Access.WHITE_BOX
    paper = "Zhang, Jia, Pei, Wang, Li and Song, CVPR 2020, arXiv 1911.07135"
    Config = GmiConfig
    needs = frozenset({Trait.CRITIC})
    default_prior = "dcgan"

    def cost(self, attacked: int, samples_per_class: int, n_classes: int) -> Cost:
        """One image a row and step."""
        rows = attacked * samples_per_class
        steps = rows * self.config.steps
        return Cost(forward=steps, backward=steps, decodes=2 * rows, gradient_decodes=steps)

    def invert(
        self, view: WhiteBoxView, prior: Prior, rows: Rows, ctx: KeyedContext, snapshot_fracs: tuple[float, ...]
    ) -> Inversion:
        """One latent per row, from N(0, I)."""
        return run_gmi(view, prior, rows, ctx, snapshot_fracs, identity(cross_entropy), self.config, stage=self.name)


def run_gmi(
    view: WhiteBoxView,
    prior: Prior,
    rows: Rows,
    ctx: KeyedContext,
    fracs: tuple[float, ...],
    identity_term: Term,
    config: GmiConfig,
    *,
    stage: str,
) -> Inversion:
    """GMI with any identity term in place of the cross-entropy."""
    chunks, start = Chunks(ctx), RandomInit()(prior, rows, ctx)
    objective = Objective(
        view,
        prior,
        rows.labels,
        (
            (config.identity_weight / config.batch_equivalent, identity_term),
            (config.critic_weight / config.batch_equivalent, unreal),
        ),
        ctx,
        channels_last=config.channels_last,
    )
    end = descend(
        start,
        objective,
        Nesterov(config.lr, config.momentum),
        steps=config.steps,
        view=view,
        chunks=chunks,
        ctx=ctx,
        stage=stage,
        constrain=lambda z: z.clamp(-config.clip, config.clip),
        fracs=fracs,
    )
    return pictured(end, start, prior, rows, chunks, ctx)
