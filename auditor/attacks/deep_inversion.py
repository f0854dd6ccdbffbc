"""DeepInversion: pixels whose statistics inside the target match those its batch norms remember of the private data."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor

from auditor.attacks.base import Attack, AttackConfig, Decay, Inversion, KeyedContext, Rows
from auditor.attacks.gradient import Adam, Descent, cosine, descend
from auditor.attacks.initial import RandomInit
from auditor.attacks.input_statistics import InputStatistics, Moments, norms_of
from auditor.attacks.objectives import Objective, Scene, Term, cross_entropy, identity, latent_energy
from auditor.attacks.picture import jitter, total_variation
from auditor.attacks.rows import Chunks, T, pictured
from auditor.contracts.access import Access
from auditor.contracts.cost import Cost
from auditor.priors.base import Prior, Trait
from auditor.targets.base import Target
from auditor.targets.views import WhiteBoxView


class DeepInversionConfig(AttackConfig):
    """Parameters of DeepInversion; weights are for terms per sample and do not depend on batch, size or depth."""

    steps: int = Field(default=500, ge=1)
    """Updates (the paper's code: 2,000 to 20,000)."""
    lr: float = Field(default=0.1, gt=0)
    """Peak step size of Adam in latent units, which with the prior `pixels` are about normalised pixel values."""
    betas: tuple[Decay, Decay] = (0.5, 0.9)
    """Decay rates of Adam."""
    warm_up: int = Field(default=20, ge=0)
    """Steps over which the step size rises before its cosine takes over (the paper's code: 100)."""
    companions: int = Field(default=64, ge=1)
    """Pictures of classes drawn at random that are made first, and whose statistics every picture completes."""
    statistics_weight: float = Field(default=3.0, ge=0)
    """Weight of the batch-norm term beside the cross-entropy."""
    first_layer_weight: float = Field(default=10.0, ge=0)
    """Weight of the first batch norm among the others, which have 1."""
    tv_weight: float = Field(default=1.0, ge=0)
    """Weight of the mean squared difference of neighbouring pixels."""
    l2_weight: float = Field(default=0.01, ge=0)
    """Weight of half the mean squared latent."""
    shift: int = Field(default=2, ge=0)
    """Largest random shift in pixels at every step (the paper's code: 30 at 224 pixels, 2 at 32); 0: none."""
    flip: bool = True
    """Mirror half of the pictures at every step."""
    box: float = Field(default=2.0, gt=0)
    """Latents stay within [-box, box]; 2 is the whole range of the prior `pixels`."""
    channels_last: bool = True


class DeepInversion(Attack[DeepInversionConfig]):
    """Adam on pixels: cross-entropy, total variation, and how far batch-norm inputs are from their running statistics.

    Every BatchNorm2d remembers mean and variance of its inputs over the private data. The pictures are drawn to show
    the same, layer by layer, under random shifts and mirrors, from noise.

    Departures: the paper's statistics are of one batch of many classes, so that every picture depends on which others
    are made beside it. Here a batch of random classes, the same whatever is attacked, is made first in the paper's way;
    then every wanted picture is made as if it were one more member of that batch, with the batch as it was at the same
    step. (Statistics of one class alone are no substitute: they force every class to look like the average.)
    Deviations are relative to the running deviation and variance and averaged over channels and layers, so that one
    weight serves every network. No lower-resolution stage, no student that competes (Adaptive DeepInversion), and the
    last picture in place of the one of lowest loss: the step size ends at zero.
    """

    name = "deep-inversion"
    access = Access.WHITE_BOX
    paper = "Yin, Molchanov, Li, Alvarez, Mallya, Hoiem, Jha and Kautz, CVPR 2020, arXiv 1912.08795"
    Config = DeepInversionConfig
    needs = frozenset({Trait.PIXELS})
    default_prior = "pixels"

    def inapplicable(self, target: Target) -> str:
        """A model without batch norms remembers no statistics."""
        if target.module is not None and norms_of(tuple(target.module.modules())):
            return ""
        return (
            "the model has no BatchNorm2d layer with running statistics to match (it was built without, or its export "
            "folded them into the convolutions)"
        )

    def cost(self, attacked: int, samples_per_class: int, n_classes: int) -> Cost:
        """One image a row and step, companions included."""
        rows, shared = attacked * samples_per_class, self.config.companions * self.config.steps
        steps = rows * self.config.steps + shared
        return Cost(forward=steps, backward=steps, shared=shared, decodes=2 * rows, gradient_decodes=steps)

    def invert(
        self, view: WhiteBoxView, prior: Prior, rows: Rows, ctx: KeyedContext, snapshot_fracs: tuple[float, ...]
    ) -> Inversion:
        """The companions, then one picture per row, all from noise."""
        chunks = Chunks(ctx)
        with InputStatistics(view.layers) as statistics:
            together = Together(statistics, self.config.first_layer_weight)
            company = self._companions(view.n_classes, ctx)
            first = self._descend(view, prior, company, together, Unsplit(ctx), ctx, ())
            start = self._start(prior, rows, ctx)
            end = Descent(
                start, complete=False, notes=first.notes, path=tuple((frac, start) for frac in snapshot_fracs)
            )
            if first.complete:
                beside = Beside(together, self.config.companions)
                end = self._descend(view, prior, rows, beside, chunks, ctx, snapshot_fracs)
        return pictured(end, start, prior, rows, chunks, ctx)

    def _companions(self, n_classes: int, ctx: KeyedContext) -> Rows:
        """Rows of classes in a random order, over and over; their samples are numbered from -1 down."""
        count = self.config.companions
        order = torch.randperm(n_classes, generator=ctx.rng("companions"))
        return Rows(order.repeat(-(-count // n_classes))[:count], -1 - torch.arange(count))

    def _start(self, prior: Prior, rows: Rows, ctx: KeyedContext) -> Tensor:
        return RandomInit()(prior, rows, ctx).clamp(-self.config.box, self.config.box)

    def _descend(
        self,
        view: WhiteBoxView,
        prior: Prior,
        rows: Rows,
        statistics: Together | Beside,
        chunks: Chunks,
        ctx: KeyedContext,
        fracs: tuple[float, ...],
    ) -> Descent:
        config = self.config
        terms: tuple[tuple[float, Term], ...] = (
            (1.0, identity(cross_entropy)),
            (config.statistics_weight, statistics),
            (config.tv_weight, total_variation),
            (config.l2_weight, latent_energy),
        )
        augmenter = jitter(ctx, rows, config.shift, flip=config.flip)
        layout = config.channels_last
        objective = Objective(view, prior, rows.labels, terms, ctx, augmenter=augmenter, channels_last=layout)
        return descend(
            self._start(prior, rows, ctx),
            AtStep(objective, statistics),
            Adam(config.lr, config.betas),
            steps=config.steps,
            view=view,
            chunks=chunks,
            ctx=ctx,
            stage=f"{self.name} companions" if isinstance(statistics, Together) else self.name,
            constrain=lambda z: z.clamp(-config.box, config.box),
            schedule=self._schedule,
            fracs=fracs,
        )

    def _schedule(self, step: int, steps: int) -> float:
        """From 0 up along a line, then down along a cosine."""
        warm_up = min(self.config.warm_up, steps - 1)
        return (step + 1) / (warm_up + 1) if step < warm_up else cosine(step - warm_up, steps - warm_up)


class Together:
    """The term of a batch whose rows are judged by their statistics together; remembers them, step by step.

    Args:
        statistics: watches the target.
        first_weight: weight of the batch norm that runs first; the others have 1.

    Attributes:
        step: of the descent, set before every call.
        course: moments of the whole batch, by step and layer.
    """

    def __init__(self, statistics: InputStatistics, first_weight: float) -> None:
        self.statistics, self.first_weight = statistics, first_weight
        self.step = 0
        self.course: dict[int, list[Moments]] = {}

    def __call__(self, scene: Scene) -> Tensor:
        """(B,) the deviation of the whole batch, for each row the same; a mean over layers."""
        found = self.statistics.latest(len(scene.labels))
        self.course[self.step] = [layer.pooled() for layer in found]
        whole = [Moments(m.first.mean(0, True), m.second.mean(0, True), m.remembered) for m in found]
        return self.weighted(whole).expand(len(scene.labels))

    def weighted(self, layers: list[Moments]) -> Tensor:
        """(B,) mean over layers of the deviations, the first layer's weighted."""
        weights = [self.first_weight, *[1.0] * (len(layers) - 1)]
        terms = [weight * layer.deviation() for weight, layer in zip(weights, layers, strict=True)]
        return torch.stack(terms).mean(dim=0)


class Beside:
    """The term of a row that joins a batch: the statistics of both, the batch being as it was at the same step.

    The gradient is multiplied by the size, as a member's is in `Together`, where every row counts the whole deviation.

    Args:
        together: has watched the batch to its end.
        size: rows of that batch.
    """

    def __init__(self, together: Together, size: int) -> None:
        self._together, self._size = together, size
        self.step = 0

    def __call__(self, scene: Scene) -> Tensor:
        """(B,): row i depends on row i alone."""
        found = self._together.statistics.latest(len(scene.labels))
        joined = [
            Moments(self._join(batch.first, row.first), self._join(batch.second, row.second), row.remembered)
            for batch, row in zip(self._together.course[self.step], found, strict=True)
        ]
        return (self._size + 1) * self._together.weighted(joined)

    def _join(self, batch: Tensor, row: Tensor) -> Tensor:
        """(B, C) the mean over the batch's members and one row."""
        return (self._size * batch + row) / (self._size + 1)


class AtStep:
    """An objective that tells one of its terms which step it is.

    Args:
        objective: the objective.
        term: the term.
    """

    def __init__(self, objective: Objective, term: Together | Beside) -> None:
        self._objective, self._term = objective, term

    @property
    def queries_per_row(self) -> int:
        """As the objective's."""
        return self._objective.queries_per_row

    def __call__(self, latents: Tensor, index: Tensor, step: int) -> Tensor:
        """(B, D) latents of rows `index` to (B,) losses."""
        self._term.step = step
        return self._objective(latents, index, step)


class Unsplit(Chunks):
    """One chunk, whatever the batch size: for rows that are judged together."""

    def map(self, n: int, function: Callable[[slice], T], *, cost: int = 1) -> list[T]:
        """`function` on all rows at once."""
        return [function(slice(0, n))]
