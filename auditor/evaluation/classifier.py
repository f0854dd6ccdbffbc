"""Attack accuracy by the independent classifier."""

from __future__ import annotations

from torch import Tensor

from auditor.contracts.scores import Score
from auditor.evaluation.base import EvaluatorConfig, Judgement, Reference, RowValues, hits, rate_score
from auditor.evaluation.intervals import Bootstrap
from auditor.tensors import RunContext
from auditor.training import predict

_NAMES = ("evaluator_top1", "evaluator_top5")


class ClassifierEvaluator:
    """Share of pictures that an independent classifier of the private classes calls by the wanted class (top-1, top-5).

    An upper estimate: a classifier trained on the same classes shares the target's blind spots.
    """

    name = "classifier"
    paper = "Zhang et al., CVPR 2020, arXiv 1911.07135; Struppek et al., ICML 2022, arXiv 2201.12179"
    Config = EvaluatorConfig

    def __init__(self, config: EvaluatorConfig) -> None:
        self.config = config

    def rows(self, images: Tensor, labels: Tensor, reference: Reference, ctx: RunContext) -> RowValues:
        """`evaluator_top1` and `evaluator_top5`."""
        if reference.evaluator is None:
            return RowValues({}, dict.fromkeys(_NAMES, reference.why_missing("evaluator")))
        scores = predict(reference.evaluator.logits, images, ctx)
        return RowValues({"evaluator_top1": hits(scores, labels, 1), "evaluator_top5": hits(scores, labels, 5)}, {})

    def scores(self, judgement: Judgement, bootstrap: Bootstrap) -> tuple[Score, ...]:
        """Both shares with class-bootstrap intervals."""
        return tuple(rate_score(name, judgement, bootstrap) for name in _NAMES)
