"""Identification by the judge: nearest centroid of real private references."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from auditor.contracts.scores import Score
from auditor.evaluation.base import EvaluatorConfig, Judgement, Reference, RowValues, hits, rate_score
from auditor.evaluation.intervals import Bootstrap
from auditor.tensors import RunContext

_NAMES = ("judge_top1", "judge_top5")


class JudgeEvaluator:
    """Share of pictures identified as their class (top-1, top-5) by an embedder that never saw the private classes."""

    name = "judge"
    paper = (
        "Ho et al., 2025, arXiv 2505.03519 (a second, unrelated judge); Snell et al., NeurIPS 2017, arXiv 1703.05175"
    )
    Config = EvaluatorConfig

    def __init__(self, config: EvaluatorConfig) -> None:
        self.config = config

    def rows(self, images: Tensor, labels: Tensor, reference: Reference, ctx: RunContext) -> RowValues:
        """`judge_top1` and `judge_top5`; NaN for classes without a reference."""
        index = reference.judge
        if index is None:
            return RowValues({}, dict.fromkeys(_NAMES, reference.why_missing("judge")))
        similarities = index.similarities(images, ctx)
        known = index.present[labels].numpy()
        values = {
            name: np.where(known, hits(similarities, labels, k), np.nan) for name, k in zip(_NAMES, (1, 5), strict=True)
        }
        return RowValues(values, {})

    def scores(self, judgement: Judgement, bootstrap: Bootstrap) -> tuple[Score, ...]:
        """Both shares with class-bootstrap intervals."""
        return tuple(rate_score(name, judgement, bootstrap) for name in _NAMES)
