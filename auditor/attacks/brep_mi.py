"""BREP-MI: find a picture that the target gives the class, then walk away from where the class ends; labels only."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor

from auditor.attacks.base import Attack, AttackConfig, Inversion, KeyedContext, Rows
from auditor.attacks.boundary import Repulsion, Sphere, repel
from auditor.attacks.initial import RandomInit
from auditor.attacks.label_search import FirstPoints, class_hits, search_labels
from auditor.attacks.rows import Chunks, RowStreams, paint
from auditor.contracts.access import Access
from auditor.contracts.cost import Cost
from auditor.priors.base import Prior
from auditor.targets.views import LabelView
from auditor.tensors import Snapshot


class BrepMiConfig(AttackConfig):
    """Parameters of BREP-MI; lengths are shares of sqrt(D), the norm of a typical latent.

    At the paper's 100 coordinates, 0.1 is a length of 1.
    """

    search: int = Field(default=20_000, ge=1)
    """Prior samples that are asked about at most, to find a first picture of every class."""
    directions: int = Field(default=32, ge=1)
    """Points tried around a centre at every iteration."""
    iterations: int = Field(default=300, ge=1)
    """At most, for all radii together."""
    patience: int = Field(default=50, ge=1)
    """Iterations at one radius after which a row is left alone (the paper's code: 1,000)."""
    first_radius: float = Field(default=0.2, gt=0)
    last_radius: float = Field(default=1.2, gt=0)
    """Radius at which a row is done; the paper's code has none, and grows without end where a generator saturates."""
    growth: float = Field(default=1.3, gt=1)
    held: float = Field(default=0.875, gt=0, lt=1)
    """The sphere grows when more than this share of its points has the label."""
    longest_step: float = Field(default=0.3, gt=0)
    """Limit of a third of the radius, by which the mean direction is scaled."""
    box: float = Field(default=1.5, gt=0)
    """Every point, of a sphere or of the search, stays within this many standard deviations, by coordinates."""


class BrepMi(Attack[BrepMiConfig]):
    """Random prior samples until the target gives one the class, then repulsion from the class's boundary.

    Around a centre, points of a sphere are asked about; the centre moves against the mean direction of those that are
    not of the class, and the sphere grows once nearly all are. The picture is the centre at the last growth. The search
    is one sequence of samples for all classes: row `sample` of a class starts from the class's hit of that number, or
    from an earlier one where there are fewer. A class nobody finds keeps a prior sample no target chose, and is named.

    Departures: points of the sphere are clipped like centres and the radius has an end, since in the paper's code far
    points of a generator that saturates all get one label and the radius diverges; the count of idle iterations goes on
    when a move is refused, where the paper's code may never end; a row whose sphere never grew gives its last centre;
    losses and the evaluator are not looked at; lengths scale with the latent's size; far less patience by default.
    """

    name = "brep-mi"
    access = Access.LABEL
    paper = "Kahla, Chen, Just and Jia, CVPR 2022, arXiv 2203.06569"
    Config = BrepMiConfig

    def cost(self, attacked: int, samples_per_class: int, n_classes: int) -> Cost:
        """At most the whole search, then `directions` + 1 images a row and iteration."""
        config, rows = self.config, attacked * samples_per_class
        forward = config.search + rows * config.iterations * (config.directions + 1)
        return Cost(forward=forward, shared=config.search, decodes=forward + 2 * rows, bound=True)

    def invert(
        self, view: LabelView, prior: Prior, rows: Rows, ctx: KeyedContext, snapshot_fracs: tuple[float, ...]
    ) -> Inversion:
        """Search, then repel."""
        config, chunks = self.config, Chunks(ctx)
        start = RandomInit()(prior, rows, ctx).clamp(-config.box, config.box)
        first = search_labels(
            view, prior, rows, chunks, ctx, size=config.search, box=config.box, stage=f"{self.name} search"
        )
        end = self._repel(view, prior, rows, first, chunks, ctx, snapshot_fracs)

        def draw(found: Tensor) -> Tensor:
            latents = start.clone()
            latents[first.found] = found
            return paint(prior, latents, rows.labels, chunks, ctx)

        return Inversion(
            start=paint(prior, start, rows.labels, chunks, ctx),
            images=draw(end.latents),
            snapshots=tuple(Snapshot(frac, draw(latents)) for frac, latents in end.path),
            notes=_missed(rows, first) + end.notes + chunks.notes,
            complete=first.complete and end.complete,
        )

    def _repel(
        self,
        view: LabelView,
        prior: Prior,
        rows: Rows,
        first: FirstPoints,
        chunks: Chunks,
        ctx: KeyedContext,
        fracs: tuple[float, ...],
    ) -> Repulsion:
        """The repulsion of the rows that have a first point."""
        config, unit = self.config, math.sqrt(prior.latent_dim)
        found = Rows(rows.labels[first.found], rows.sample[first.found])

        def inside(latents: Tensor, row: Tensor) -> Tensor:
            return class_hits(view, prior, latents, found.labels[row], chunks, ctx)

        sphere = Sphere(
            directions=config.directions,
            first=config.first_radius * unit,
            last=config.last_radius * unit,
            growth=config.growth,
            held=config.held,
            longest_step=config.longest_step * unit,
            box=config.box,
        )
        return repel(
            first.latents[first.found],
            inside,
            RowStreams(ctx, found, "boundary"),
            sphere,
            iterations=config.iterations,
            patience=config.patience,
            view=view,
            ctx=ctx,
            stage=self.name,
            fracs=fracs,
        )


def _missed(rows: Rows, first: FirstPoints) -> list[str]:
    """A remark that names the classes without a first point, if there are any."""
    missed = torch.unique(rows.labels[~first.found]).tolist()
    if not missed:
        return []
    named = ", ".join(map(str, missed[:20])) + (" and others" if len(missed) > 20 else "")
    return [
        f"no initial point among {first.asked} prior samples, so that the pictures are prior samples the target had no "
        f"say in, for classes: {named}"
    ]
