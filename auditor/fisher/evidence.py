"""What the layer scores are made of: per-sample squares of private images, of inversions, and of a placebo.

Which images, which labels (method card B.2 and B.3):

- private images, with all labels weighted by the model (the true Fisher) and with the observed one (the empirical);
- images along the inversions of one or more attacks, with the class aimed at and with labels drawn from the model;
- unguided prior samples with random labels, the placebo.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auditor.contracts.plan import FisherSpec
from auditor.errors import InvalidInput
from auditor.fisher.contrast import Profile, profile
from auditor.fisher.diagonal import FisherScorer
from auditor.fisher.per_sample import UnitSquares
from auditor.fisher.shares import Aggregator, Matrix, cluster_sums, masses, trimmed
from auditor.tensors import ImageBatch, RunContext

FEWEST_CLASSES = 2


@dataclass(frozen=True)
class Course:
    """Images along one attack's inversions.

    Attributes:
        attack: its key.
        prior: name of its prior.
        prior_free: whether that holds no public knowledge.
        fracs: (T,) how far the inversions were, in [0, 1].
        images: (T, M, C, H, W), 8-bit or in [0, 1].
        labels: (M,) the class each row was aimed at.
    """

    attack: str
    prior: str
    prior_free: bool
    fracs: tuple[float, ...]
    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Task:
    """Squares of one set of images under one choice of labels.

    Attributes:
        steps: (M, U) squares at each point of a trajectory; a single one where there is none.
        labels: (M,) classes, which are resampled whole.
    """

    steps: tuple[UnitSquares, ...]
    labels: NDArray[np.int64]

    def profile(
        self, sizes: Sequence[int], aggregator: Aggregator, order: NDArray[np.int64], counts: Matrix
    ) -> Profile:
        """Shares, and their resamples under `counts` of the classes in `order`."""
        return profile([cluster_sums(masses(s, sizes, aggregator), self.labels, order) for s in self.steps], counts)

    def step_shares(self, sizes: Sequence[int], aggregator: Aggregator) -> tuple[Matrix, ...]:
        """(U,) shares at each point."""
        order = np.unique(self.labels)
        once = np.ones((1, len(order)))
        return tuple(
            profile([cluster_sums(masses(step, sizes, aggregator), self.labels, order)], once).shares
            for step in self.steps
        )

    def trimmed(self, sizes: Sequence[int], aggregator: Aggregator) -> Matrix:
        """(U,) shares without the lowest and highest tenth of the samples in each unit."""
        found: Matrix = np.mean([trimmed(masses(step, sizes, aggregator)) for step in self.steps], axis=0)
        return found


@dataclass(frozen=True)
class Inversion:
    """One attack's course, scored for the classes it aimed at and for labels drawn from the model."""

    course: Course
    target: Task
    true: Task


@dataclass(frozen=True)
class Evidence:
    """Everything scored.

    Attributes:
        classification: private images, true Fisher.
        empirical: the same images with their observed labels.
        inversions: one for each attack with enough finite samples; at least one.
        placebo: unguided samples with random labels.
        definition: how `classification` was computed.
        true_definition: how `Inversion.true` was.
        n_private: private images drawn.
        dropped: samples left out since a gradient was not finite.
        unusable: keys of attacks with too few finite samples.
    """

    classification: Task
    empirical: Task
    inversions: tuple[Inversion, ...]
    placebo: Task
    definition: str
    true_definition: str
    n_private: int
    dropped: int
    unusable: tuple[str, ...] = ()


def gather(
    scorer: FisherScorer,
    fit: ImageBatch,
    courses: Sequence[Course],
    placebo: ImageBatch,
    spec: FisherSpec,
    ctx: RunContext,
) -> Evidence:
    """Score everything, stage by stage; what an earlier call has written to `ctx.unfinished` is not scored again.

    Raises:
        InvalidInput: fewer than two classes with finite gradients among the private images, the placebo, or the
            reconstructions of every attack.
    """
    wanted = torch.cat([torch.zeros(0, dtype=torch.int64), *(course.labels for course in courses)])
    private = private_sample(fit, wanted, spec, ctx)
    true, definition = scorer.true(private.images, spec, stage="fisher-classification")
    observed = scorer.labelled(private.images, _labels(private), stage="fisher-empirical")
    found = [_follow(scorer, course, spec, number) for number, course in enumerate(courses)]
    random = scorer.labelled(placebo.images, _labels(placebo), stage="fisher-placebo")
    usable = [len(np.unique(inversion.target.labels)) >= FEWEST_CLASSES for inversion, _, _ in found]
    inversions = tuple(inversion for (inversion, _, _), good in zip(found, usable, strict=True) if good)
    if not inversions:
        raise _too_few("reconstructions")
    (classification, empirical), dropped = _kept([(true,), (observed,)], _labels(private), "private images")
    (unguided,), dropped_placebo = _kept([(random,)], _labels(placebo), "placebo")
    return Evidence(
        classification=classification,
        empirical=empirical,
        inversions=inversions,
        placebo=unguided,
        definition=definition,
        true_definition=found[0][1],
        n_private=len(private),
        dropped=dropped + dropped_placebo + sum(n for _, _, n in found),
        unusable=tuple(course.attack for course, good in zip(courses, usable, strict=True) if not good),
    )


def _labels(batch: ImageBatch) -> Tensor:
    if batch.labels is None:
        raise InvalidInput("the Fisher scores need labelled private images")
    return batch.labels


def _follow(scorer: FisherScorer, course: Course, spec: FisherSpec, number: int) -> tuple[Inversion, str, int]:
    """One attack's points, all in one go; its true Fisher's definition; samples that were not finite."""
    points, rows = course.images.shape[:2]
    images, labels = course.images.flatten(0, 1), course.labels.repeat(points)
    target = scorer.labelled(images, labels, stage=f"fisher-inversion {number + 1}")
    true, definition = scorer.sampled(images, spec, stage=f"fisher-inversion-true {number + 1}")

    def by_point(squares: UnitSquares) -> tuple[UnitSquares, ...]:
        return tuple(squares.select(torch.arange(t * rows, (t + 1) * rows)) for t in range(points))

    (aimed, drawn), dropped = _finite([by_point(target), by_point(true)], course.labels)
    return Inversion(course, aimed, drawn), definition, dropped


def private_sample(fit: ImageBatch, wanted: Tensor, spec: FisherSpec, ctx: RunContext) -> ImageBatch:
    """A seeded draw of `images_per_class` images of `n_classes` classes, the attacked ones first."""
    labels = _labels(fit)
    present = labels.unique()
    shuffled = present[torch.randperm(len(present), generator=ctx.rng("fisher", "classes"))]
    attacked = torch.isin(shuffled, wanted.cpu())
    chosen = torch.cat([shuffled[attacked], shuffled[~attacked]])[: spec.n_classes].sort().values
    rows = []
    for label in chosen.tolist():
        index = (labels == label).nonzero().flatten()
        order = torch.randperm(len(index), generator=ctx.rng("fisher", "images", label))
        rows.append(index[order[: spec.images_per_class]])
    return fit.select(torch.cat(rows))


def _finite(tasks: Sequence[tuple[UnitSquares, ...]], labels: Tensor) -> tuple[list[Task], int]:
    """The samples that are finite in every task and at every step, and how many are not."""
    finite = torch.stack([step.finite for steps in tasks for step in steps]).all(dim=0)
    kept = labels.cpu()[finite].numpy().astype(np.int64)
    return [Task(tuple(step.select(finite) for step in steps), kept) for steps in tasks], int((~finite).sum())


def _kept(tasks: Sequence[tuple[UnitSquares, ...]], labels: Tensor, what: str) -> tuple[list[Task], int]:
    found, dropped = _finite(tasks, labels)
    if len(np.unique(found[0].labels)) < FEWEST_CLASSES:
        raise _too_few(what)
    return found, dropped


def _too_few(what: str) -> InvalidInput:
    return InvalidInput(f"the Fisher scores need finite gradients for at least two classes of {what}")
