"""KEDMI: knowledge-enriched distributional model inversion."""

from __future__ import annotations

from pydantic import Field

from auditor.attacks.base import Attack, Inversion, KeyedContext, Rows
from auditor.attacks.gaussian import GaussianConfig, learn_gaussians
from auditor.attacks.objectives import Term, cross_entropy, identity, unreal
from auditor.contracts.access import Access
from auditor.contracts.cost import Cost
from auditor.priors.base import Prior, Trait
from auditor.targets.views import WhiteBoxView


class KedmiConfig(GaussianConfig):
    """Parameters of KEDMI; weights, step size and clip are the paper's."""

    identity_weight: float = Field(default=100.0, gt=0)
    """Weight of the cross-entropy beside the critic's score."""
    critic_weight: float = Field(default=1.0, ge=0)
    clip: float = Field(default=1.0, gt=0)
    """Latents are clipped to [-clip, clip]; beyond it they carry no gradient."""


class Kedmi(Attack[KedmiConfig]):
    """A Gaussian over the latents per class, learnt by Adam on 100 times the cross-entropy minus the critic's score.

    With the prior it comes with, whose discriminator was taught the target's soft labels, the critic's score is the
    log-probability of being real. What is shown are fresh draws of the learnt distribution; none is selected.

    Departures: several draws per class and step (the paper's code: one) and fewer steps; the distribution starts at
    N(0, I) and latents are clipped before they are drawn, as in the code of its successors (the original starts at
    variance e, and its clip has no effect on the optimisation). Losses are per class and never averaged over a batch.
    """

    name = "kedmi"
    access = Access.WHITE_BOX
    paper = "Chen, Kahla, Jia and Qi, ICCV 2021, arXiv 2010.04092"
    Config = KedmiConfig
    needs = frozenset({Trait.CRITIC})
    default_prior = "kedmi-gan"

    def cost(self, attacked: int, samples_per_class: int, n_classes: int) -> Cost:
        """`samples` images a class and step, however many pictures are wanted."""
        return self.config.cost(attacked, samples_per_class)

    def invert(
        self, view: WhiteBoxView, prior: Prior, rows: Rows, ctx: KeyedContext, snapshot_fracs: tuple[float, ...]
    ) -> Inversion:
        """One distribution per class, one draw of it per row."""
        return run_kedmi(view, prior, rows, ctx, snapshot_fracs, identity(cross_entropy), self.config, stage=self.name)


def run_kedmi(
    view: WhiteBoxView,
    prior: Prior,
    rows: Rows,
    ctx: KeyedContext,
    fracs: tuple[float, ...],
    identity_term: Term,
    config: KedmiConfig,
    *,
    stage: str,
) -> Inversion:
    """KEDMI with any identity term in place of the cross-entropy."""
    return learn_gaussians(
        view,
        prior,
        rows,
        ctx,
        fracs,
        terms=((config.identity_weight, identity_term), (config.critic_weight, unreal)),
        config=config,
        stage=stage,
        clip=config.clip,
    )
