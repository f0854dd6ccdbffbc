"""The selection control: the prior samples the target likes best, with no optimisation at all."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from auditor.attacks.base import Attack, AttackConfig, Inversion, KeyedContext, Rows
from auditor.attacks.initial import Pool, search_pool
from auditor.attacks.rows import Chunks, paint
from auditor.contracts.access import Access
from auditor.contracts.cost import Cost
from auditor.priors.base import Prior
from auditor.targets.views import ScoreView
from auditor.tensors import Snapshot


class BestOfPriorConfig(AttackConfig):
    """Parameters of the selection control."""

    pool: int = Field(default=2000, ge=1)
    """Prior samples scored; raised to the samples wanted per class if fewer."""


class BestOfPrior(Attack[BestOfPriorConfig]):
    """A control, not an attack: per class, the best of a pool of prior samples by the target's own confidence.

    What selection alone reaches; an attack has to beat it to show that optimising against the target reveals more. The
    pictures before it are the pool's first members, which no target had a say in.
    """

    name = "best-of-prior"
    access = Access.SCORE
    paper = "own; the search stage of Struppek et al., ICML 2022, arXiv 2201.12179, on its own"
    Config = BestOfPriorConfig
    is_control = True

    def cost(self, attacked: int, samples_per_class: int, n_classes: int) -> Cost:
        """The pool, once."""
        pool = max(self.config.pool, samples_per_class)
        return Cost(forward=pool, shared=pool, decodes=pool + 2 * attacked * samples_per_class)

    def invert(
        self, view: ScoreView, prior: Prior, rows: Rows, ctx: KeyedContext, snapshot_fracs: tuple[float, ...]
    ) -> Inversion:
        """Rank `sample` of the pool for each row."""
        chunks = Chunks(ctx)
        size = max(self.config.pool, int(rows.sample.max()) + 1)
        pool = search_pool(view, prior, size, chunks, ctx, stage=self.name)
        places = pool.places(rows)
        images = paint(prior, pool.latents[places], _at(pool, places), chunks, ctx)
        return Inversion(
            start=paint(prior, pool.latents[rows.sample], _at(pool, rows.sample), chunks, ctx),
            images=images,
            snapshots=tuple(Snapshot(frac, images) for frac in snapshot_fracs),
            notes=chunks.notes,
            complete=pool.complete,
        )


def _at(pool: Pool, places: Tensor) -> Tensor | None:
    """The classes the pool's members were drawn as; None for a prior that draws none."""
    return None if pool.labels is None else pool.labels[places]
