"""PLG-MI: descend a margin that does not fade, class by class, over the latents of a GAN made for this target."""

from __future__ import annotations

from pydantic import Field

from auditor.attacks.augment import JITTER, Augmenter, Ranges
from auditor.attacks.base import Attack, AttackConfig, Inversion, KeyedContext, Rows
from auditor.attacks.gradient import Adam, RowObjective, descend
from auditor.attacks.initial import RandomInit
from auditor.attacks.objectives import Objective, identity, max_margin
from auditor.attacks.rows import Chunks, RowStreams, pictured
from auditor.contracts.access import Access
from auditor.contracts.cost import Cost
from auditor.priors.base import Prior, Trait
from auditor.targets.views import LabelView, WhiteBoxView


class PlgMiConfig(AttackConfig):
    """Parameters of PLG-MI's inversion; its prior has its own."""

    steps: int = Field(default=200, ge=1)
    """Updates (the paper's code: 600)."""
    lr: float = Field(default=0.1, gt=0)
    """Step size of Adam."""
    copies: int = Field(default=2, ge=1)
    """Changed copies of every picture whose margins are averaged at every step."""
    crop_area: float = Field(default=JITTER.area[0], gt=0, le=1)
    """Smallest share of the picture that a copy's crop keeps."""
    rotate_deg: float = Field(default=JITTER.rotate_deg, ge=0, le=45)
    """Largest rotation of a copy."""
    light: float = Field(default=JITTER.brightness, ge=0, lt=1)
    """Largest change of a copy's brightness and contrast."""
    flip: bool = JITTER.flip
    """Mirror half of the copies."""

    @property
    def ranges(self) -> Ranges:
        """Limits of the changes."""
        return Ranges(
            area=(self.crop_area, 1.0),
            rotate_deg=self.rotate_deg,
            flip=self.flip,
            brightness=self.light,
            contrast=self.light,
        )


class PlgMi(Attack[PlgMiConfig]):
    """Adam on the max-margin loss over latents of a conditional GAN, averaged over two changed copies; no selection.

    The prior draws the class it is asked for, so every row begins near its class; the margin between the class and the
    best other one goes on pulling where a cross-entropy has faded.

    Departures: crops, turns and lights are drawn per sample (the paper's code draws them per batch); pictures are in
    [0, 1] throughout; fewer steps by default.
    """

    name = "plg-mi"
    access = Access.WHITE_BOX
    paper = "Yuan, Chen, Zhang, Lei, Yu and Wang, AAAI 2023, arXiv 2302.09814"
    Config = PlgMiConfig
    needs = frozenset({Trait.CONDITIONAL})
    default_prior = "plg-gan"

    def cost(self, attacked: int, samples_per_class: int, n_classes: int) -> Cost:
        """`copies` images a row and step."""
        rows = attacked * samples_per_class
        steps = rows * self.config.steps
        sent = steps * self.config.copies
        return Cost(forward=sent, backward=sent, decodes=2 * rows, gradient_decodes=steps)

    def invert(
        self, view: WhiteBoxView, prior: Prior, rows: Rows, ctx: KeyedContext, snapshot_fracs: tuple[float, ...]
    ) -> Inversion:
        """One latent per row, from N(0, I)."""
        augmenter = row_augmenter(self.config, rows, ctx)
        objective = Objective(view, prior, rows.labels, ((1.0, identity(max_margin)),), ctx, augmenter=augmenter)
        return run_plg_mi(objective, view, prior, rows, ctx, snapshot_fracs, self.config, stage=self.name)


def row_augmenter(config: PlgMiConfig, rows: Rows, ctx: KeyedContext) -> Augmenter:
    """The changes of every row's copies."""
    return Augmenter(RowStreams(ctx, rows, "augment"), config.ranges, config.copies)


def run_plg_mi(
    objective: RowObjective,
    view: LabelView,
    prior: Prior,
    rows: Rows,
    ctx: KeyedContext,
    fracs: tuple[float, ...],
    config: PlgMiConfig,
    *,
    stage: str,
) -> Inversion:
    """Adam from N(0, I) on `objective`, whoever answers it: PLG-MI's descent, which LOKT takes over."""
    chunks, start = Chunks(ctx), RandomInit()(prior, rows, ctx)
    end = descend(
        start,
        objective,
        Adam(config.lr),
        steps=config.steps,
        view=view,
        chunks=chunks,
        ctx=ctx,
        stage=stage,
        fracs=fracs,
    )
    return pictured(end, start, prior, rows, chunks, ctx)
