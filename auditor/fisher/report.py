"""The Fisher part of a report: layer scores for classification, inversion and placebo, and the boundary they suggest.

Motivated by TL-DMI (Ho, Hao, Chandrasegaran, Nguyen and Cheung, CVPR 2024, arXiv 2405.05588), which argues from
layer-wise Fisher information but publishes no code for it. The definitions are method card B's: the true Fisher for
classification, target labels along the inversion, shares under a named view, contrast and gap with intervals over
classes. The result is a search heuristic for repairs; it never lowers a risk level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from auditor.contracts.fisher import FisherReport, UnitScore
from auditor.contracts.plan import FisherSpec
from auditor.errors import InvalidInput
from auditor.fisher.contrast import (
    Gap,
    Profile,
    candidate_boundaries,
    contrast,
    depth_gap,
    profile,
    resamples,
)
from auditor.fisher.diagonal import FisherScorer
from auditor.fisher.per_sample import UnitSquares
from auditor.fisher.shares import AGGREGATORS, RECOMMENDED, Aggregator, Matrix, cluster_sums, masses, trimmed
from auditor.fisher.units import Unit, execution_units
from auditor.tensors import ImageBatch, RunContext


@dataclass(frozen=True)
class _Task:
    """One task's per-sample squares: several trajectory points for inversion, one otherwise."""

    steps: tuple[UnitSquares, ...]
    labels: NDArray[np.int64]
    dropped: int

    def profile(
        self, sizes: Sequence[int], aggregator: Aggregator, n_bootstrap: int, ctx: RunContext, key: str
    ) -> Profile:
        """Shares and their resamples over this task's classes."""
        order = np.unique(self.labels)
        counts = resamples(len(order), n_bootstrap, ctx.rng("fisher", "bootstrap", key))
        return profile([cluster_sums(masses(s, sizes, aggregator), self.labels, order) for s in self.steps], counts)


def fisher_report(
    module: nn.Module,
    prepare: Callable[[Tensor], Tensor],
    fit: ImageBatch,
    snapshots: Sequence[tuple[float, Tensor]],
    snapshot_labels: Tensor,
    placebo_images: Tensor,
    placebo_labels: Tensor,
    spec: FisherSpec,
    ctx: RunContext,
    *,
    trajectory_attack: str,
    n_bootstrap: int,
) -> FisherReport:
    """Score every unit of `module`.

    Args:
        module: raw model input to (B, K) logits or log-probabilities (not probabilities); left untouched.
        prepare: images in [0, 1] to raw model input.
        fit: private images the target was trained on, with labels.
        snapshots: (fraction of the inversion, (N, C, H, W) images in [0, 1]), rows aligned with `snapshot_labels`.
        snapshot_labels: (N,) class each row was aimed at.
        placebo_images: (M, C, H, W) unguided prior samples.
        placebo_labels: (M,) random labels.
        spec: classes, images per class, exact or sampled labels.
        ctx: device, seed, progress.
        trajectory_attack: key of the attack the snapshots come from.
        n_bootstrap: resamples of the classes.

    Raises:
        InvalidInput: fewer than two classes, or no finite sample, on either side.
    """
    units = execution_units(module, prepare(fit.images[:1].to(ctx.device)))
    scorer = FisherScorer(module, prepare, units, ctx)
    images, labels = _private_sample(fit, snapshot_labels, spec, ctx)
    cls_squares, definition = scorer.classification(images, spec, stage="fisher-classification")
    classification = _task([cls_squares], labels, "private images")
    found = [scorer.target(step, snapshot_labels, stage="fisher-inversion") for _, step in snapshots]
    inversion = _task(found, snapshot_labels, "reconstructions")
    placebo = _task([scorer.target(placebo_images, placebo_labels, stage="fisher-placebo")], placebo_labels, "placebo")
    return _report(
        units,
        {"classification": classification, "inversion": inversion, "placebo": placebo},
        n_bootstrap,
        ctx,
        definition=definition,
        trajectory=tuple(frac for frac, _ in snapshots),
        trajectory_attack=trajectory_attack,
        n_private=len(images),
    )


def _private_sample(fit: ImageBatch, wanted: Tensor, spec: FisherSpec, ctx: RunContext) -> tuple[Tensor, Tensor]:
    """A seeded draw of `images_per_class` images of `n_classes` classes, the attacked ones first."""
    if fit.labels is None:
        raise InvalidInput("the Fisher scores need labelled private images")
    present = fit.labels.unique()
    shuffled = present[torch.randperm(len(present), generator=ctx.rng("fisher", "classes"))]
    attacked = torch.isin(shuffled, wanted.cpu())
    chosen = torch.cat([shuffled[attacked], shuffled[~attacked]])[: spec.n_classes].sort().values
    rows = []
    for label in chosen.tolist():
        index = (fit.labels == label).nonzero().flatten()
        order = torch.randperm(len(index), generator=ctx.rng("fisher", "images", label))
        rows.append(index[order[: spec.images_per_class]])
    picked = torch.cat(rows)
    return fit.images[picked], fit.labels[picked]


def _task(steps: Sequence[UnitSquares], labels: Tensor, what: str) -> _Task:
    """Keep the samples that are finite at every step; a sample that is not is dropped and counted."""
    if not steps or not len(labels):
        raise InvalidInput(f"the Fisher scores have no {what}")
    finite = torch.stack([step.finite for step in steps]).all(dim=0)
    kept = labels.cpu()[finite]
    if len(kept.unique()) < 2:
        raise InvalidInput(f"the Fisher scores need finite gradients for at least two classes of {what}")
    dropped = int((~finite).sum())
    return _Task(tuple(step.select(finite) for step in steps), kept.numpy().astype(np.int64), dropped)


def _report(
    units: Sequence[Unit],
    tasks: dict[str, _Task],
    n_bootstrap: int,
    ctx: RunContext,
    *,
    definition: str,
    trajectory: tuple[float, ...],
    trajectory_attack: str,
    n_private: int,
) -> FisherReport:
    sizes = [unit.n_parameters for unit in units]
    profiles = {
        aggregator: {key: task.profile(sizes, aggregator, n_bootstrap, ctx, key) for key, task in tasks.items()}
        for aggregator in AGGREGATORS
    }
    inversion, classification = profiles[RECOMMENDED]["inversion"], profiles[RECOMMENDED]["classification"]
    gap = depth_gap(inversion, classification)
    informative = gap is not None and gap.informative
    order = np.unique(tasks["inversion"].labels)
    per_step = [
        profile(
            [cluster_sums(masses(step, sizes, RECOMMENDED), tasks["inversion"].labels, order)], np.ones((1, len(order)))
        )
        for step in tasks["inversion"].steps
    ]
    return FisherReport(
        units=_unit_scores(units, profiles),
        classification_definition=definition,
        aggregator=RECOMMENDED,
        trajectory=trajectory,
        per_step_share=tuple(tuple(map(float, step.shares)) for step in per_step),
        trajectory_attack=trajectory_attack,
        gap=gap.value if gap else 0.0,
        gap_low=gap.low if gap else 0.0,
        gap_high=gap.high if gap else 0.0,
        boundary=gap.boundary if gap and informative else None,
        candidates=candidate_boundaries(gap, classification.shares),
        verdict="informative" if informative else "uninformative",
        n_classes=len(order),
        n_images=n_private,
        dropped_nonfinite=sum(task.dropped for task in tasks.values()),
        notes=_notes(tasks, profiles, gap, sizes),
    )


def _unit_scores(units: Sequence[Unit], profiles: dict[Aggregator, dict[str, Profile]]) -> tuple[UnitScore, ...]:
    value, low, high = contrast(profiles[RECOMMENDED]["inversion"], profiles[RECOMMENDED]["classification"])

    def by_aggregator(task: str, index: int) -> dict[str, float]:
        return {str(aggregator): float(profiles[aggregator][task].shares[index]) for aggregator in AGGREGATORS}

    return tuple(
        UnitScore(
            name=unit.name,
            parameters=unit.parameters,
            n_parameters=unit.n_parameters,
            depth_frac=(index + 1) / len(units),
            classification_share=by_aggregator("classification", index),
            inversion_share=by_aggregator("inversion", index),
            placebo_share=by_aggregator("placebo", index),
            contrast=float(value[index]),
            contrast_low=float(low[index]),
            contrast_high=float(high[index]),
        )
        for index, unit in enumerate(units)
    )


def _notes(
    tasks: dict[str, _Task],
    profiles: dict[Aggregator, dict[str, Profile]],
    gap: Gap | None,
    sizes: Sequence[int],
) -> tuple[str, ...]:
    """What a reader must know before acting on the boundary."""
    if gap is None:
        return ("The network is a single unit: there is nothing to freeze.",)
    notes = ["One training seed: differences between seeds are not in the intervals."]
    if gap.informative:
        against = depth_gap(profiles[RECOMMENDED]["inversion"], profiles[RECOMMENDED]["placebo"])
        if against is not None and against.low <= 0:
            notes.append(
                "Unguided prior samples with random labels give the same depth profile as the reconstructions: the "
                "profile tells about network and label mismatch, not about leakage."
            )
        robust: list[Matrix] = [
            np.mean([trimmed(masses(step, sizes, RECOMMENDED)) for step in tasks[key].steps], axis=0)
            for key in ("inversion", "classification")
        ]
        trimmed_boundary = int(np.argmax(np.cumsum(robust[0] - robust[1])[:-1])) + 1
        if trimmed_boundary != gap.boundary:
            notes.append(
                f"With the extreme tenth of samples trimmed on either side the boundary is {trimmed_boundary}."
            )
    for aggregator in AGGREGATORS:
        if aggregator == RECOMMENDED:
            continue
        other = depth_gap(profiles[aggregator]["inversion"], profiles[aggregator]["classification"])
        if other is None or (other.informative, gap.informative) == (False, False):
            continue
        if other.informative != gap.informative or other.boundary != gap.boundary:
            said = f"boundary {other.boundary}" if other.informative else "uninformative"
            notes.append(f"The view '{aggregator}' says otherwise: {said}.")
    if len(np.unique(tasks["inversion"].labels)) < 20:
        notes.append("Fewer than 20 classes: the intervals are too narrow to be relied on.")
    return tuple(notes)
