"""Fisher layer scores of a report (method card B.8)."""

from __future__ import annotations

from typing import Literal

from auditor.contracts.base import Contract

Bounds = tuple[float, float]
"""95 % interval, from a bootstrap over classes."""


class UnitScore(Contract):
    """One unit (a convolution or linear layer with its norm, or a residual block), in execution order."""

    name: str
    parameters: tuple[str, ...]
    """Names of its parameters in the target."""
    n_parameters: int
    depth_frac: float
    classification_share: dict[str, float]
    """True Fisher on private images, by aggregator: `relative`, `sum`, `density`."""
    inversion_share: dict[str, float]
    """Target labels along the inversions, the mean over the attacks that were followed; by aggregator."""
    placebo_share: dict[str, float]
    """Unguided prior samples with random labels in place of reconstructions."""
    empirical_share: dict[str, float] = {}
    """As `classification_share`, with the observed labels (the "empirical Fisher")."""
    inversion_true_share: dict[str, float] = {}
    """As `inversion_share`, with labels drawn from the model: the true Fisher at the reconstructions."""
    classification_interval: Bounds | None = None
    """Of the recommended aggregator's share, as the next two."""
    inversion_interval: Bounds | None = None
    placebo_interval: Bounds | None = None
    classification_trimmed: float | None = None
    """Share (recommended aggregator) when the lowest and highest tenth of the samples are left out of each unit."""
    inversion_trimmed: float | None = None
    contrast: float
    """log(inversion share / classification share), recommended aggregator; positive: matters more to inversion."""
    contrast_low: float
    contrast_high: float


class Trajectory(Contract):
    """One attack that was followed on its way; shares are of the recommended aggregator, with target labels."""

    attack: str
    """Its key in the plan."""
    prior: str = ""
    prior_free: bool = False
    """Its prior holds no public knowledge."""
    fracs: tuple[float, ...]
    """How far the inversion was at each point, in [0, 1]."""
    weights: tuple[float, ...] = ()
    """Of the points in the mean, which takes shares, not masses: masses fall by magnitudes along an inversion."""
    per_step_share: tuple[tuple[float, ...], ...] = ()
    """At each point, by unit."""
    n_classes: int = 0
    n_images: int = 0
    """Reconstructions at each point."""


class GapReading(Contract):
    """The gap between two depth profiles, both under one aggregator."""

    inversion: Literal["target-label", "true", "placebo"]
    against: Literal["true", "empirical", "placebo"]
    """Of the private images; `placebo`: the unguided samples."""
    aggregator: str
    attack: str = ""
    """The one attack it looks at; empty: all that were followed."""
    gap: float
    gap_low: float
    gap_high: float
    boundary: int
    """k at the gap, whether or not it means anything."""
    informative: bool


class FisherReport(Contract):
    """Which layers matter to inversion and which to classification; never lowers a risk level."""

    units: tuple[UnitScore, ...]
    classification_definition: str
    """`exact`, or `sampled:S` labels per image."""
    inversion_definition: str = "target-label"
    inversion_true_definition: str = ""
    """`sampled:S` labels per reconstruction; empty: not computed."""
    aggregator: str = "relative"
    trajectories: tuple[Trajectory, ...] = ()
    """Attacks that were followed; of a report from before there were several, see `followed`."""
    trajectory: tuple[float, ...]
    per_step_share: tuple[tuple[float, ...], ...] = ()
    """Of reports without `trajectories`."""
    trajectory_attack: str
    """Keys of the attacks that were followed."""
    gap: float
    """max over k of inversion mass minus classification mass in the first k units."""
    gap_low: float
    gap_high: float
    gap_boundary: int | None = None
    """k at the maximum, whether or not it means anything."""
    boundary: int | None
    """Recommended number of frozen units; None when uninformative."""
    weighted_boundaries: dict[str, int] = {}
    """k at the maximum of inversion mass minus lambda times classification mass, by lambda."""
    candidates: tuple[int, ...]
    """Boundaries a repair should try."""
    verdict: Literal["informative", "uninformative"]
    readings: tuple[GapReading, ...] = ()
    """The same question under other definitions, aggregators and attacks, and against the placebo."""
    n_classes: int
    n_images: int
    seeds: tuple[int, ...] = ()
    """Of the draws (images, labels, resamples), one per trained network: differences between trainings need several."""
    dropped_nonfinite: int = 0
    notes: tuple[str, ...] = ()

    @property
    def followed(self) -> tuple[Trajectory, ...]:
        """The attacks that were followed, whatever the age of the report."""
        old = Trajectory(attack=self.trajectory_attack, fracs=self.trajectory, per_step_share=self.per_step_share)
        return self.trajectories or (old,)
