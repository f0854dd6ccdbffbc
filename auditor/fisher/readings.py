"""Depth profiles of the evidence under every aggregator, and the gap asked for in other ways (method card B.5-B.7).

Magnitudes are never compared between tasks: both sides of a contrast or a gap are shares under the same aggregator, and
all attacks that were followed count alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from auditor.contracts.fisher import GapReading
from auditor.fisher.contrast import Profile, average, depth_gap, resamples
from auditor.fisher.evidence import Evidence, Task
from auditor.fisher.shares import AGGREGATORS, RECOMMENDED, Aggregator
from auditor.tensors import RunContext

Upper = Literal["target-label", "true", "placebo"]
Lower = Literal["true", "empirical", "placebo"]

FEW_CLASSES = 20
"""Classes under which an interval over classes is too narrow."""


@dataclass(frozen=True)
class Profiles:
    """Depth profiles under one aggregator.

    Attributes:
        classification: private images, true Fisher.
        empirical: the same, observed labels.
        inversion: target labels, mean over the attacks.
        inversion_true: labels drawn from the model, mean over the attacks.
        placebo: unguided samples.
        by_attack: as `inversion`, for each attack alone.
    """

    classification: Profile
    empirical: Profile
    inversion: Profile
    inversion_true: Profile
    placebo: Profile
    by_attack: tuple[Profile, ...]


def all_profiles(
    evidence: Evidence, sizes: Sequence[int], n_bootstrap: int, ctx: RunContext
) -> dict[Aggregator, Profiles]:
    """Profiles and resamples under every aggregator; tasks on the same images are resampled together."""
    attacked = np.unique(np.concatenate([inversion.target.labels for inversion in evidence.inversions]))
    orders = {
        "classification": np.unique(evidence.classification.labels),
        "inversion": attacked,
        "placebo": np.unique(evidence.placebo.labels),
    }
    counts = {
        key: resamples(len(order), n_bootstrap, ctx.rng("fisher", "bootstrap", key)) for key, order in orders.items()
    }

    def made(aggregator: Aggregator) -> Profiles:
        def of(task: Task, key: str) -> Profile:
            return task.profile(sizes, aggregator, orders[key], counts[key])

        by_attack = tuple(of(inversion.target, "inversion") for inversion in evidence.inversions)
        return Profiles(
            classification=of(evidence.classification, "classification"),
            empirical=of(evidence.empirical, "classification"),
            inversion=average(by_attack),
            inversion_true=average([of(inversion.true, "inversion") for inversion in evidence.inversions]),
            placebo=of(evidence.placebo, "placebo"),
            by_attack=by_attack,
        )

    return {aggregator: made(aggregator) for aggregator in AGGREGATORS}


def gap_readings(profiles: dict[Aggregator, Profiles], evidence: Evidence) -> tuple[GapReading, ...]:
    """The recommended reading first; each of the others changes one thing. None for a network of one unit."""
    own = profiles[RECOMMENDED]
    asked: list[tuple[Upper, Lower, Aggregator, str, Profile, Profile]] = [
        ("target-label", "true", name, "", profiles[name].inversion, profiles[name].classification)
        for name in AGGREGATORS
    ]
    asked += [
        ("true", "true", RECOMMENDED, "", own.inversion_true, own.classification),
        ("target-label", "empirical", RECOMMENDED, "", own.inversion, own.empirical),
    ]
    if len(own.by_attack) > 1:
        asked += [
            ("target-label", "true", RECOMMENDED, followed.course.attack, found, own.classification)
            for followed, found in zip(evidence.inversions, own.by_attack, strict=True)
        ]
    asked += [
        ("target-label", "placebo", RECOMMENDED, "", own.inversion, own.placebo),
        ("placebo", "true", RECOMMENDED, "", own.placebo, own.classification),
    ]
    readings = []
    for inversion, against, aggregator, attack, upper, lower in asked:
        gap = depth_gap(upper, lower)
        if gap is None:
            return ()
        readings.append(
            GapReading(
                inversion=inversion,
                against=against,
                aggregator=aggregator,
                attack=attack,
                gap=gap.value,
                gap_low=gap.low,
                gap_high=gap.high,
                boundary=gap.boundary,
                informative=gap.informative,
            )
        )
    return tuple(readings)


def remarks(evidence: Evidence, readings: Sequence[GapReading], sizes: Sequence[int]) -> tuple[str, ...]:
    """What a reader must know before acting on the boundary."""
    if not readings:
        return ("The network is a single unit: there is nothing to freeze.",)
    recommended, others = readings[0], readings[1:]
    notes = ["One training seed: differences between seeds are not in the intervals.", *_followed(evidence)]
    if recommended.informative:
        notes.append("Measured on this model; a repaired one is another, and only its audit says what freezing did.")
        if any(row.against == "placebo" and row.gap_low <= 0 for row in others):
            notes.append(
                "Unguided prior samples with random labels give the same depth profile as the reconstructions: the "
                "profile tells about network and label mismatch, not about leakage."
            )
        boundary = trimmed_boundary(evidence, sizes)
        if boundary != recommended.boundary:
            notes.append(f"With the extreme tenth of samples trimmed on either side the boundary is {boundary}.")
    notes += [
        f"{_named(row)} says otherwise: {f'boundary {row.boundary}' if row.informative else 'uninformative'}."
        for row in others
        if "placebo" not in (row.inversion, row.against) and _disagree(row, recommended)
    ]
    classes = np.unique(np.concatenate([inversion.target.labels for inversion in evidence.inversions]))
    if len(classes) < FEW_CLASSES:
        notes.append(f"Fewer than {FEW_CLASSES} classes: the intervals are too narrow to be relied on.")
    return tuple(notes)


def _followed(evidence: Evidence) -> list[str]:
    courses = [inversion.course for inversion in evidence.inversions]
    lost = [f"{attack} could not be followed: too few finite gradients." for attack in evidence.unusable]
    if len(courses) == 1:
        return [*lost, f"Only {courses[0].attack} was followed: the profile may be this attack's own."]
    if len({course.prior_free for course in courses}) == 1:
        kind = "without" if courses[0].prior_free else "with"
        lost.append(
            f"All attacks that were followed work {kind} public knowledge: the profile may be their kind's own."
        )
    return lost


def _disagree(row: GapReading, recommended: GapReading) -> bool:
    if not row.informative and not recommended.informative:
        return False
    return row.informative != recommended.informative or row.boundary != recommended.boundary


def _named(row: GapReading) -> str:
    if row.attack:
        return f"The attack '{row.attack}' alone"
    if row.aggregator != RECOMMENDED:
        return f"The view '{row.aggregator}'"
    if row.against == "empirical":
        return "The empirical Fisher of the private images"
    return "The true Fisher of the reconstructions"


def trimmed_boundary(evidence: Evidence, sizes: Sequence[int]) -> int:
    """The boundary at the gap between trimmed shares."""
    inversion = np.mean([found.target.trimmed(sizes, RECOMMENDED) for found in evidence.inversions], axis=0)
    difference = inversion - evidence.classification.trimmed(sizes, RECOMMENDED)
    return int(np.argmax(np.cumsum(difference)[:-1])) + 1
