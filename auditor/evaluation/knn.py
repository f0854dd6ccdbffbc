"""Distance to the nearest private image of the class in the evaluator's features."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from auditor.contracts.scores import NotMeasured, Score
from auditor.evaluation.base import EvaluatorConfig, Floats, Judgement, Reference, RowValues
from auditor.evaluation.intervals import Bootstrap, mean_interval
from auditor.evaluation.scoring import measured
from auditor.tensors import RunContext
from auditor.training import predict


class KnnEvaluator:
    """Mean squared L2 distance of a picture to the nearest private image of its class in the evaluator's features.

    Lower is closer to a private image. The scale is the evaluator's own: compare it within one audit only.
    """

    name = "knn"
    paper = "Zhang et al., CVPR 2020, arXiv 1911.07135 (KNN Dist); Struppek et al., ICML 2022, arXiv 2201.12179 (delta)"
    Config = EvaluatorConfig

    def __init__(self, config: EvaluatorConfig) -> None:
        self.config = config

    def rows(self, images: Tensor, labels: Tensor, reference: Reference, ctx: RunContext) -> RowValues:
        """`knn`; NaN for classes without a private image."""
        features, owners = reference.private_features, reference.private_labels
        if reference.evaluator is None or features is None or owners is None:
            return RowValues({}, {"knn": reference.why_missing("evaluator")})
        drawn = predict(reference.evaluator.features, images, ctx)
        return RowValues({"knn": nearest_squared(drawn, labels, features, owners)}, {})

    def scores(self, judgement: Judgement, bootstrap: Bootstrap) -> tuple[Score, ...]:
        """`knn_distance`."""
        if not judgement.has("knn"):
            return (NotMeasured(metric="knn_distance", reason=judgement.reason("knn")),)
        per_class = judgement.per_class(judgement.knn)
        known = per_class[np.isfinite(per_class)]
        if known.size == 0:
            return (NotMeasured(metric="knn_distance", reason="no attacked class has a private image"),)
        interval = mean_interval(known, n_resamples=bootstrap.n_resamples, generator=bootstrap.rng("knn_distance"))
        n = int(np.isfinite(judgement.knn).sum())
        return (measured("knn_distance", interval, n, unit="squared_l2", higher_is_riskier=False),)


def nearest_squared(features: Tensor, labels: Tensor, references: Tensor, owners: Tensor) -> Floats:
    """(N,) squared L2 distance of each row to the nearest reference of its own class; NaN where there is none."""
    nearest = torch.full((len(features),), torch.nan, dtype=torch.float64)
    for label in labels.unique().tolist():
        rows, own = labels == label, references[owners == label]
        if len(own):
            differences = features[rows].double()[:, None] - own.double()[None]  # (n, m, F)
            nearest[rows] = differences.square().sum(dim=2).amin(dim=1)
    result: Floats = nearest.numpy()
    return result
