"""Agreement of evaluator and judge, and how often the evaluator accepts what the judge does not."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from auditor.contracts.scores import NotMeasured, Score
from auditor.evaluation.base import EvaluatorConfig, Judgement, Reference, RowValues, unreferenced
from auditor.evaluation.intervals import Bootstrap, rate_interval, ratio_interval
from auditor.evaluation.scoring import measured
from auditor.tensors import RunContext

_PARTS = ("evaluator_top1", "judge_top1")


class AgreementEvaluator:
    """Share of pictures both evaluator and judge accept, and the false positives the judge implies for the evaluator.

    The implied false-positive rate is FP / (FP + TN): of the pictures the judge rejects, the share the evaluator
    accepts.
    """

    name = "agreement"
    paper = "Ho et al., 2025, arXiv 2505.03519"
    Config = EvaluatorConfig

    def __init__(self, config: EvaluatorConfig) -> None:
        self.config = config

    def rows(self, images: Tensor, labels: Tensor, reference: Reference, ctx: RunContext) -> RowValues:
        """Nothing of its own: it reads the rows of `classifier` and `judge`."""
        return RowValues({}, {})

    def scores(self, judgement: Judgement, bootstrap: Bootstrap) -> tuple[Score, ...]:
        """`both_agree` and `implied_fpr`."""
        names = ("both_agree", "implied_fpr")
        if not judgement.has(*_PARTS):
            return tuple(NotMeasured(metric=name, reason=judgement.reason(*_PARTS)) for name in names)
        unknown = np.unique(judgement.labels[np.isnan(judgement.value("judge_top1"))])
        if unknown.size:
            return tuple(NotMeasured(metric=name, reason=unreferenced(unknown)) for name in names)
        both = rate_interval(
            judgement.per_class(judgement.both),
            n_resamples=bootstrap.n_resamples,
            generator=bootstrap.rng("both_agree"),
        )
        return measured("both_agree", both, len(judgement)), self._implied_fpr(judgement, bootstrap)

    def _implied_fpr(self, judgement: Judgement, bootstrap: Bootstrap) -> Score:
        rejected = ~judgement.judge_top1
        interval = ratio_interval(
            judgement.class_sums(rejected & judgement.evaluator_top1),
            judgement.class_sums(rejected),
            n_resamples=bootstrap.n_resamples,
            generator=bootstrap.rng("implied_fpr"),
        )
        if interval is None:
            return NotMeasured(metric="implied_fpr", reason="the judge rejected no picture")
        return measured("implied_fpr", interval, int(rejected.sum()))
