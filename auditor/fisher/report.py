"""The Fisher part of a report: layer scores for classification, inversion and placebo, and the boundary they suggest.

Motivated by TL-DMI (Ho, Hao, Chandrasegaran, Nguyen and Cheung, CVPR 2024, arXiv 2405.05588), which argues from
layer-wise Fisher information but publishes no code for it. The definitions are method card B's: the true Fisher for
classification, target labels along the inversions, shares under a named view, contrast and gap with intervals over
classes. The result is a search heuristic for repairs; it never lowers a risk level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor, nn

from auditor.contracts.fisher import Bounds, FisherReport, Trajectory, UnitScore
from auditor.contracts.plan import FisherSpec
from auditor.fisher.contrast import (
    Profile,
    candidate_boundaries,
    contrast,
    depth_gap,
    share_bounds,
    weighted_boundaries,
)
from auditor.fisher.diagonal import FisherScorer
from auditor.fisher.evidence import Course, Evidence, Inversion, gather
from auditor.fisher.readings import Profiles, all_profiles, gap_readings, remarks
from auditor.fisher.shares import AGGREGATORS, RECOMMENDED, Aggregator
from auditor.fisher.units import Unit, execution_units
from auditor.tensors import ImageBatch, RunContext


def fisher_report(
    module: nn.Module,
    prepare: Callable[[Tensor], Tensor],
    fit: ImageBatch,
    courses: Sequence[Course],
    placebo: ImageBatch,
    spec: FisherSpec,
    ctx: RunContext,
    *,
    n_bootstrap: int,
) -> FisherReport:
    """Score every unit of `module`.

    Args:
        module: raw model input to (B, K) logits or log-probabilities (not probabilities); left untouched.
        prepare: images in [0, 1] to raw model input.
        fit: private images the target was trained on, with labels.
        courses: images along the inversions of the attacks that are followed.
        placebo: unguided prior samples with random labels.
        spec: classes, images per class, exact or sampled labels.
        ctx: device, seed, progress, and where to go on from.
        n_bootstrap: resamples of the classes.

    Raises:
        InvalidInput: fewer than two classes, or no finite sample, on either side.
    """
    units = execution_units(module, prepare(fit.images[:1].to(ctx.device)))
    evidence = gather(FisherScorer(module, prepare, units, ctx), fit, courses, placebo, spec, ctx)
    sizes = [unit.n_parameters for unit in units]
    profiles = all_profiles(evidence, sizes, n_bootstrap, ctx)
    own = profiles[RECOMMENDED]
    gap = depth_gap(own.inversion, own.classification)
    informative = gap is not None and gap.informative
    readings = gap_readings(profiles, evidence)
    trajectories = tuple(_trajectory(inversion, sizes) for inversion in evidence.inversions)
    return FisherReport(
        units=_unit_scores(units, profiles, evidence, sizes),
        classification_definition=evidence.definition,
        inversion_true_definition=evidence.true_definition,
        aggregator=RECOMMENDED,
        trajectories=trajectories,
        trajectory=trajectories[0].fracs,
        trajectory_attack=", ".join(row.attack for row in trajectories),
        gap=gap.value if gap else 0.0,
        gap_low=gap.low if gap else 0.0,
        gap_high=gap.high if gap else 0.0,
        gap_boundary=gap.boundary if gap else None,
        boundary=gap.boundary if gap and informative else None,
        weighted_boundaries=weighted_boundaries(own.inversion.shares, own.classification.shares),
        candidates=candidate_boundaries(gap, own.classification.shares),
        verdict="informative" if informative else "uninformative",
        readings=readings,
        n_classes=len(np.unique(np.concatenate([found.target.labels for found in evidence.inversions]))),
        n_images=evidence.n_private,
        seeds=(ctx.seed,),
        dropped_nonfinite=evidence.dropped,
        notes=remarks(evidence, readings, sizes),
    )


def _trajectory(inversion: Inversion, sizes: Sequence[int]) -> Trajectory:
    course, task = inversion.course, inversion.target
    return Trajectory(
        attack=course.attack,
        prior=course.prior,
        prior_free=course.prior_free,
        fracs=course.fracs,
        weights=tuple(1 / len(course.fracs) for _ in course.fracs),
        per_step_share=tuple(tuple(map(float, shares)) for shares in task.step_shares(sizes, RECOMMENDED)),
        n_classes=len(np.unique(task.labels)),
        n_images=len(task.labels),
    )


def _unit_scores(
    units: Sequence[Unit], profiles: dict[Aggregator, Profiles], evidence: Evidence, sizes: Sequence[int]
) -> tuple[UnitScore, ...]:
    own = profiles[RECOMMENDED]
    value, low, high = contrast(own.inversion, own.classification)
    trimmed = evidence.classification.trimmed(sizes, RECOMMENDED)
    trimmed_inversion = np.mean([found.target.trimmed(sizes, RECOMMENDED) for found in evidence.inversions], axis=0)
    bounds = {key: share_bounds(getattr(own, key)) for key in ("classification", "inversion", "placebo")}

    def shares(task: str, index: int) -> dict[str, float]:
        found: dict[Aggregator, Profile] = {name: getattr(profiles[name], task) for name in AGGREGATORS}
        return {str(name): float(made.shares[index]) for name, made in found.items()}

    def interval(task: str, index: int) -> Bounds:
        lower, upper = bounds[task]
        return float(lower[index]), float(upper[index])

    return tuple(
        UnitScore(
            name=unit.name,
            parameters=unit.parameters,
            n_parameters=unit.n_parameters,
            depth_frac=(index + 1) / len(units),
            classification_share=shares("classification", index),
            inversion_share=shares("inversion", index),
            placebo_share=shares("placebo", index),
            empirical_share=shares("empirical", index),
            inversion_true_share=shares("inversion_true", index),
            classification_interval=interval("classification", index),
            inversion_interval=interval("inversion", index),
            placebo_interval=interval("placebo", index),
            classification_trimmed=float(trimmed[index]),
            inversion_trimmed=float(trimmed_inversion[index]),
            contrast=float(value[index]),
            contrast_low=float(low[index]),
            contrast_high=float(high[index]),
        )
        for index, unit in enumerate(units)
    )
