"""Fisher layer scores of a report (method card B.8)."""

from __future__ import annotations

from typing import Literal

from auditor.contracts.base import Contract


class UnitScore(Contract):
    """One unit (a convolution or linear layer with its norm, or a residual block), in execution order."""

    name: str
    parameters: tuple[str, ...]
    """Names of its parameters in the target."""
    n_parameters: int
    depth_frac: float
    classification_share: dict[str, float]
    """By aggregator: `relative`, `sum`, `density`."""
    inversion_share: dict[str, float]
    placebo_share: dict[str, float]
    """Unguided prior samples with random labels in place of reconstructions."""
    contrast: float
    """log(inversion share / classification share), recommended aggregator; positive: matters more to inversion."""
    contrast_low: float
    contrast_high: float


class FisherReport(Contract):
    """Which layers matter to inversion and which to classification; never lowers a risk level."""

    units: tuple[UnitScore, ...]
    classification_definition: str
    """`exact`, or `sampled:S` labels per image."""
    inversion_definition: str = "target-label"
    aggregator: str = "relative"
    trajectory: tuple[float, ...]
    per_step_share: tuple[tuple[float, ...], ...] = ()
    """Inversion shares (recommended aggregator) at each trajectory point, by unit."""
    trajectory_attack: str
    gap: float
    """max over k of inversion mass minus classification mass in the first k units."""
    gap_low: float
    gap_high: float
    boundary: int | None
    """Recommended number of frozen units; None when uninformative."""
    candidates: tuple[int, ...]
    """Boundaries a repair should try."""
    verdict: Literal["informative", "uninformative"]
    n_classes: int
    n_images: int
    dropped_nonfinite: int = 0
    notes: tuple[str, ...] = ()
