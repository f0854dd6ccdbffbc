"""VMI: variational model inversion."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from auditor.attacks.base import Attack, Inversion, KeyedContext, Rows
from auditor.attacks.gaussian import Diagonal, FullCovariance, GaussianConfig, learn_gaussians
from auditor.attacks.objectives import cross_entropy, identity
from auditor.contracts.access import Access
from auditor.contracts.cost import Cost
from auditor.priors.base import Prior
from auditor.targets.views import WhiteBoxView


class VmiConfig(GaussianConfig):
    """Parameters of VMI."""

    samples: int = Field(default=8, ge=1)
    """Draws of the distribution per class and step (the paper's code: 64)."""
    divergence_weight: float = Field(default=0.01, ge=0)
    """Weight of the divergence from N(0, I), in nats; at 1 the Gaussian nearest to the class's true posterior."""
    covariance: Literal["diagonal", "full"] = "diagonal"
    """`full`: any covariance, by its Cholesky factor."""


class Vmi(Attack[VmiConfig]):
    """Variational inference of the latents of a class: expected cross-entropy plus a multiple of the divergence.

    The Gaussian of each class is pulled towards N(0, I), so its draws stay pictures of the prior and stay diverse.

    Departures: Gaussians with a divergence in closed form, of independent coordinates or of any covariance, where the
    paper's strongest results use normalising flows over StyleGAN's layers; Adam in place of momentum descent; far fewer
    draws and steps by default (the paper's code: 64 draws in about 4,900 steps).
    """

    name = "vmi"
    access = Access.WHITE_BOX
    paper = "Wang, Fu, Li, Khisti, Zemel and Makhzani, NeurIPS 2021, arXiv 2201.10787"
    Config = VmiConfig

    def cost(self, attacked: int, samples_per_class: int, n_classes: int) -> Cost:
        """`samples` images a class and step, however many pictures are wanted."""
        return self.config.cost(attacked, samples_per_class)

    def invert(
        self, view: WhiteBoxView, prior: Prior, rows: Rows, ctx: KeyedContext, snapshot_fracs: tuple[float, ...]
    ) -> Inversion:
        """One distribution per class, one draw of it per row."""
        return learn_gaussians(
            view,
            prior,
            rows,
            ctx,
            snapshot_fracs,
            terms=((1.0, identity(cross_entropy)),),
            config=self.config,
            stage=self.name,
            family=FullCovariance() if self.config.covariance == "full" else Diagonal(),
            divergence_weight=self.config.divergence_weight,
        )
