"""What every evaluator of the catalog sees and gives: a reference, the judged rows, and scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from auditor.contracts.scores import NotMeasured, Score
from auditor.errors import InvalidInput
from auditor.evaluation.evaluator import TrainedEvaluator
from auditor.evaluation.intervals import Bootstrap, rate_interval
from auditor.evaluation.judge import JudgeIndex
from auditor.evaluation.scoring import measured
from auditor.tensors import RunContext

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Reference:
    """What pictures are judged against; never the target.

    Attributes:
        evaluator: the independent classifier, or None with the reason in `reasons["evaluator"]`.
        judge: the judge with its centroids, or None with the reason in `reasons["judge"]`.
        private_features: (M, F) evaluator features of the private fit images, or None.
        private_labels: (M,) int64 their classes, or None.
        reasons: why something is missing.
    """

    evaluator: TrainedEvaluator | None
    judge: JudgeIndex | None
    private_features: Tensor | None = None
    private_labels: Tensor | None = None
    reasons: Mapping[str, str] | None = None

    def why_missing(self, part: str) -> str:
        """The reason given for a missing part."""
        return (self.reasons or {}).get(part, f"there is no {part}")


@dataclass(frozen=True)
class Judgement:
    """Pictures as the reference judged them, row by row.

    Attributes:
        labels: (N,) int64, the class each picture should show.
        n_classes: K of the target.
        values: name to (N,) float64; hits are 0 or 1, NaN where the reference has no image of the class.
        missing: name to the reason why it could not be computed at all.
    """

    labels: NDArray[np.int64]
    n_classes: int
    values: Mapping[str, Floats]
    missing: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> NDArray[np.int64]:
        """(G,) the distinct classes, ascending."""
        return np.unique(self.labels)

    def value(self, name: str) -> Floats:
        """(N,) the row values called `name`.

        Raises:
            InvalidInput: they could not be computed; the message says why.
        """
        if name not in self.values:
            raise InvalidInput(f"'{name}' was not measured: {self.missing.get(name, 'not part of this judgement')}")
        return self.values[name]

    def has(self, *names: str) -> bool:
        """Whether all of these were computed."""
        return all(name in self.values for name in names)

    def reason(self, *names: str) -> str:
        """Why the first missing one of `names` is missing."""
        absent = [name for name in names if name not in self.values]
        return self.missing.get(absent[0], "not part of this judgement") if absent else ""

    @property
    def evaluator_top1(self) -> NDArray[np.bool_]:
        """(N,) the evaluator's first choice is the class."""
        return np.equal(self.value("evaluator_top1"), 1.0).astype(np.bool_)

    @property
    def evaluator_top5(self) -> NDArray[np.bool_]:
        """(N,) the class is among the evaluator's first five."""
        return np.equal(self.value("evaluator_top5"), 1.0).astype(np.bool_)

    @property
    def judge_top1(self) -> NDArray[np.bool_]:
        """(N,) the judge's nearest centroid is the class's."""
        return np.equal(self.value("judge_top1"), 1.0).astype(np.bool_)

    @property
    def judge_top5(self) -> NDArray[np.bool_]:
        """(N,) the class is among the judge's five nearest centroids."""
        return np.equal(self.value("judge_top5"), 1.0).astype(np.bool_)

    @property
    def both(self) -> NDArray[np.bool_]:
        """(N,) evaluator and judge both name the class first."""
        return self.evaluator_top1 & self.judge_top1

    @property
    def knn(self) -> Floats:
        """(N,) squared L2 distance to the nearest private image of the class in the evaluator's features."""
        return self.value("knn")

    def per_class(self, rows: NDArray[Any]) -> Floats:
        """(G,) mean of `rows` over each class's pictures, in the order of `classes`."""
        _, inverse, counts = np.unique(self.labels, return_inverse=True, return_counts=True)
        sums = np.zeros(len(counts))
        np.add.at(sums, inverse, np.asarray(rows, dtype=np.float64))
        return sums / counts

    def class_sums(self, rows: NDArray[Any]) -> Floats:
        """(G,) sum of `rows` over each class's pictures, in the order of `classes`."""
        _, inverse = np.unique(self.labels, return_inverse=True)
        sums = np.zeros(int(inverse.max()) + 1 if len(inverse) else 0)
        np.add.at(sums, inverse, np.asarray(rows, dtype=np.float64))
        return sums


class EvaluatorConfig(BaseModel):
    """Base of every evaluator's parameters: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class Evaluator(Protocol):
    """One entry of the catalog: values per picture, and scores over classes."""

    name: str
    paper: str
    Config: Any

    def rows(self, images: Tensor, labels: Tensor, reference: Reference, ctx: RunContext) -> RowValues:
        """Judge each picture ((N, C, H, W) in [0, 1], 8-bit rounded) against its class."""
        ...

    def scores(self, judgement: Judgement, bootstrap: Bootstrap) -> tuple[Score, ...]:
        """Scores over classes, from the rows of all evaluators."""
        ...


@dataclass(frozen=True)
class RowValues:
    """What one evaluator says of each picture.

    Attributes:
        values: name to (N,) float64.
        missing: name to the reason why it has none.
    """

    values: Mapping[str, Floats]
    missing: Mapping[str, str]


def hits(scores: Tensor, labels: Tensor, k: int) -> Floats:
    """(N,) 1 where fewer than `k` other classes score at least as high as the label; ties count against a success."""
    own = scores.gather(1, labels[:, None])
    rank = (scores >= own).sum(dim=1) - 1
    accepted = (rank < k) & torch.isfinite(own.squeeze(1))
    return accepted.double().numpy().astype(np.float64)


def rate_score(metric: str, judgement: Judgement, bootstrap: Bootstrap, *, higher_is_riskier: bool = True) -> Score:
    """The share of pictures with `metric`, mean over classes, or why it is not measured."""
    if not judgement.has(metric):
        return NotMeasured(metric=metric, reason=judgement.reason(metric))
    if metric.endswith("_top5") and judgement.n_classes <= 5:
        return NotMeasured(metric=metric, reason=f"top-5 says nothing with {judgement.n_classes} classes")
    rates = judgement.per_class(judgement.value(metric))
    unknown = judgement.classes[~np.isfinite(rates)]
    if unknown.size:
        return NotMeasured(metric=metric, reason=unreferenced(unknown))
    interval = rate_interval(rates, n_resamples=bootstrap.n_resamples, generator=bootstrap.rng(metric))
    return measured(metric, interval, len(judgement), higher_is_riskier=higher_is_riskier)


def unreferenced(classes: NDArray[np.int64]) -> str:
    """The reason given when attacked classes have no private image to compare with."""
    shown = ", ".join(str(label) for label in classes[:5]) + (", ..." if len(classes) > 5 else "")
    return f"{len(classes)} attacked classes have no private reference image ({shown})"
