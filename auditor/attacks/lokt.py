"""LOKT: a white-box attack on stand-ins for the target, which was only ever asked for labels."""

from __future__ import annotations

from torch import Tensor

from auditor.attacks.augment import Augmenter
from auditor.attacks.base import Attack, Inversion, KeyedContext, Rows
from auditor.attacks.objectives import max_margin
from auditor.attacks.plg_mi import PlgMiConfig, row_augmenter, run_plg_mi
from auditor.contracts.access import Access
from auditor.contracts.cost import Cost
from auditor.priors.base import Prior, Trait
from auditor.targets.views import LabelView


class LoktConfig(PlgMiConfig):
    """Parameters of LOKT's inversion: those of PLG-MI; its prior, which asks the target, has its own."""


class Lokt(Attack[LoktConfig]):
    """PLG-MI's descent on the mean max-margin of the prior's surrogates; it asks the target nothing.

    All knowledge of the target is in the prior, a GAN taught by the target's labels of its pictures: the queries are
    those of the prior's training, and a query budget of the inversion never binds.

    Departures: the surrogates are the GAN's own class head and one small network, where the paper averages three
    DenseNets or takes the head alone; each one's margin is taken on its own and then averaged. Fewer steps by default.
    """

    name = "lokt"
    access = Access.LABEL
    paper = "Nguyen, Chandrasegaran, Abdollahzadeh and Cheung, NeurIPS 2023, arXiv 2310.19342"
    Config = LoktConfig
    needs = frozenset({Trait.CONDITIONAL, Trait.SURROGATE})
    default_prior = "tac-gan"

    def cost(self, attacked: int, samples_per_class: int, n_classes: int) -> Cost:
        """Nothing sent to the target; `copies` images a row and step to each surrogate, of which there are two."""
        rows = attacked * samples_per_class
        steps = rows * self.config.steps
        passes = 2 * steps * self.config.copies
        return Cost(forward=0, decodes=2 * rows, gradient_decodes=steps, helper_passes=passes)

    def invert(
        self, view: LabelView, prior: Prior, rows: Rows, ctx: KeyedContext, snapshot_fracs: tuple[float, ...]
    ) -> Inversion:
        """One latent per row, from N(0, I)."""
        objective = _SurrogateMargin(prior, rows.labels, row_augmenter(self.config, rows, ctx), ctx)
        return run_plg_mi(objective, view, prior, rows, ctx, snapshot_fracs, self.config, stage=self.name)


class _SurrogateMargin:
    """Max-margin of each row, the mean over the prior's surrogates and the changed copies."""

    queries_per_row = 0

    def __init__(self, prior: Prior, labels: Tensor, augmenter: Augmenter, ctx: KeyedContext) -> None:
        self._prior, self._labels, self._augmenter, self._ctx = prior, labels.to(ctx.device), augmenter, ctx

    def __call__(self, latents: Tensor, index: Tensor, step: int) -> Tensor:
        """(B, D) latents of rows `index` at `step` to (B,) losses."""
        labels = self._labels[index.to(self._labels.device)]
        with self._ctx.autocast():
            copies = self._augmenter(self._prior.decode(latents, labels), index, step)
            logits = self._prior.surrogate(copies)
        if logits is None:
            raise ValueError(f"prior '{self._prior.name}' has no surrogate")
        M, AB, _ = logits.shape
        losses = max_margin(logits.float().flatten(0, 1), labels.repeat(M * AB // len(labels)))
        return losses.view(-1, len(labels)).mean(dim=0)
