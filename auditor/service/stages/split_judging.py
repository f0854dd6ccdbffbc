"""Judging attacks on split inference in `finish`: the truth behind each row, baselines, and how near it came."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from auditor.contracts.plan import AuditPlan
from auditor.contracts.scores import NotMeasured, Score
from auditor.contracts.submission import TargetCard
from auditor.data.bundles import load_bundle
from auditor.evaluation.base import Reference
from auditor.evaluation.ceilings import ClassRates, real_rates
from auditor.evaluation.intervals import Bootstrap
from auditor.evaluation.judgement import eight_bit
from auditor.evaluation.split_metrics import Pairs, exchanged_rates, fidelity_scores
from auditor.service.stages.attack import StoredReconstructions
from auditor.service.stages.split import observed_rows
from auditor.service.workspace import Workspace
from auditor.tensors import ImageBatch, RunContext


@dataclass(frozen=True)
class Truth:
    """The private images whose activations were seen.

    Attributes:
        images: (N, C, H, W) uint8.
        place: (class, sample) to row.
        mean_image: (C, H, W) uint8 mean of the public images, or None.
    """

    images: NDArray[np.uint8]
    place: dict[tuple[int, int], int]
    mean_image: NDArray[np.uint8] | None

    def behind(self, stored: StoredReconstructions) -> NDArray[np.uint8]:
        """(N, C, H, W) uint8 what each reconstruction should show."""
        rows = [self.place[key] for key in zip(stored.labels.tolist(), stored.sample.tolist(), strict=True)]
        return self.images[rows]


def load_truth(
    workspace: Workspace, card: TargetCard, plan: AuditPlan, classes: tuple[int, ...], ctx: RunContext
) -> Truth | None:
    """The images that `prepare` recorded the activations of; None where the model is not cut."""
    if card.split is None or not workspace.has("heldout_used.npz"):
        return None
    shape = (card.input.channels, card.input.height, card.input.width)
    heldout = load_bundle(workspace.input("heldout_used.npz"))
    rows = observed_rows(heldout, classes, plan.samples_per_class, ctx)
    mean = None
    if workspace.has("public.npz"):
        mean = _bytes(load_bundle(workspace.input("public.npz")).batch(shape).images.mean(dim=0))
    keys = zip(rows.labels.tolist(), rows.sample.tolist(), strict=True)
    images = heldout.select(rows.index).batch(shape).images
    return Truth(_bytes(images), {key: place for place, key in enumerate(keys)}, mean)


def _bytes(images: torch.Tensor) -> NDArray[np.uint8]:
    rounded: NDArray[np.uint8] = (images * 255).round().to(torch.uint8).numpy()
    return rounded


@dataclass(frozen=True)
class SplitEvidence:
    """What stands beside the judgement of one attack on split inference.

    Attributes:
        control: how often reconstructions of other classes are called by each class.
        ceiling: how often the private images themselves are recognised: the best any attack here can do.
        scores: PSNR, SSIM and the perceptual distance, with their controls.
        behind: (N, C, H, W) uint8 the private images that the reconstructions should show.
    """

    control: ClassRates | NotMeasured
    ceiling: ClassRates | NotMeasured
    scores: tuple[Score, ...]
    behind: NDArray[np.uint8]


def split_evidence(
    stored: StoredReconstructions, truth: Truth, reference: Reference, bootstrap: Bootstrap, ctx: RunContext
) -> SplitEvidence:
    """Baselines and fidelity of one attack's reconstructions."""
    behind = truth.behind(stored)
    ceiling: ClassRates | NotMeasured = NotMeasured(metric="ceiling", reason="evaluator or judge is missing")
    if reference.evaluator is not None and reference.judge is not None:
        labels = torch.from_numpy(stored.labels)
        ceiling = real_rates(ImageBatch(eight_bit(behind), labels), reference, ctx)
    return SplitEvidence(
        control=exchanged_rates(stored.images, stored.labels, reference, ctx),
        ceiling=ceiling,
        scores=fidelity_scores(
            Pairs(stored.images, behind, stored.labels, truth.mean_image), reference, bootstrap, ctx
        ),
        behind=behind,
    )
