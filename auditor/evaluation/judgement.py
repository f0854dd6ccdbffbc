"""Judging pictures: every evaluator of the catalog over the same 8-bit images."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auditor.evaluation.base import Floats, Judgement, Reference
from auditor.evaluation.catalog import EVALUATORS
from auditor.evaluation.evaluator import TrainedEvaluator
from auditor.evaluation.judge import Judge, JudgeIndex, index_judge
from auditor.tensors import ImageBatch, RunContext
from auditor.training import predict


def eight_bit(images: Tensor | NDArray[np.uint8]) -> Tensor:
    """(N, C, H, W) float32 in [0, 1] on the 256 levels a stored picture has; 8-bit input is only scaled."""
    tensor = torch.as_tensor(images).detach().cpu()
    if tensor.dtype != torch.uint8:
        tensor = (tensor.float().clamp(0, 1) * 255).round()
    return tensor.float() / 255


def build_reference(
    evaluator: TrainedEvaluator | None,
    judge: Judge | None,
    private_fit: ImageBatch,
    n_classes: int,
    ctx: RunContext,
    *,
    reasons: dict[str, str] | None = None,
) -> Reference:
    """The reference from real private fit images: judge centroids and evaluator features.

    Args:
        evaluator: the independent classifier, or None.
        judge: the embedder, or None.
        private_fit: real private images of the fit split, with labels.
        n_classes: K of the target.
        ctx: device and batch size.
        reasons: why `evaluator` or `judge` is missing, by those names.
    """
    index = None if judge is None else index_judge(judge, private_fit, n_classes, ctx)
    features = None if evaluator is None else predict(evaluator.features, private_fit.images, ctx)
    return Reference(evaluator, index, features, private_fit.labels, reasons)


def judge_images(
    images: Tensor | NDArray[np.uint8], labels: Tensor | NDArray[np.int64], reference: Reference, ctx: RunContext
) -> Judgement:
    """Judge each picture against the class it should show.

    Args:
        images: (N, C, H, W), uint8 or float in [0, 1]; rounded to 8 bits first.
        labels: (N,) int64.
        reference: evaluator, judge and private features.
        ctx: device and batch size; no randomness is drawn.
    """
    pictures, wanted = eight_bit(images), torch.as_tensor(labels).long().cpu()
    if len(pictures) == 0 or len(pictures) != len(wanted):
        raise ValueError("judging needs at least one picture, and a class for each")
    values: dict[str, Floats] = {}
    missing: dict[str, str] = {}
    for name in EVALUATORS.names:
        rows = EVALUATORS.build(name, {}).rows(pictures, wanted, reference, ctx)
        values |= rows.values
        missing |= rows.missing
    return Judgement(wanted.numpy(), _n_classes(reference, wanted), values, missing)


def _n_classes(reference: Reference, labels: Tensor) -> int:
    if reference.evaluator is not None:
        return reference.evaluator.n_classes
    if reference.judge is not None:
        return reference.judge.n_classes
    return int(labels.max()) + 1


def choices(
    images: Tensor | NDArray[np.uint8], evaluator: TrainedEvaluator, index: JudgeIndex, ctx: RunContext
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(N,) the class the evaluator calls each picture, and (N,) the class the judge calls it."""
    pictures = eight_bit(images)
    by_evaluator = predict(evaluator.logits, pictures, ctx).argmax(dim=1).numpy()
    by_judge = index.similarities(pictures, ctx).argmax(dim=1).numpy()
    return by_evaluator, by_judge


def acceptance_matrix(
    images: Tensor | NDArray[np.uint8], evaluator: TrainedEvaluator, index: JudgeIndex, ctx: RunContext
) -> NDArray[np.bool_]:
    """(N, K) whether both evaluator and judge call picture n by class k: at most one class per picture."""
    by_evaluator, by_judge = choices(images, evaluator, index, ctx)
    classes = np.arange(evaluator.n_classes)
    accepted: NDArray[np.bool_] = (by_evaluator[:, None] == classes) & (by_judge[:, None] == classes)
    return accepted
