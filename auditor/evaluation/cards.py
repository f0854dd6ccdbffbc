"""The evaluator's and the judge's card: what they are, and how well they know real held-out private images."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from auditor.contracts.cards import ClassifierCard, JudgeCard
from auditor.contracts.scores import NotMeasured, Score
from auditor.contracts.submission import TargetCard
from auditor.errors import InvalidInput
from auditor.evaluation.base import Judgement, Reference, hits, rate_score
from auditor.evaluation.evaluator import TrainedEvaluator, require_independent
from auditor.evaluation.identification import JudgeEvaluator
from auditor.evaluation.intervals import Bootstrap
from auditor.evaluation.judge import JudgeIndex
from auditor.tensors import ImageBatch, RunContext
from auditor.training import predict


def accuracy_score(
    metric: str,
    logits: Callable[[Tensor], Tensor],
    heldout: ImageBatch,
    ctx: RunContext,
    bootstrap: Bootstrap,
    *,
    k: int = 1,
) -> Score:
    """Top-k accuracy on `heldout`, mean over classes, with its class-bootstrap interval.

    Args:
        metric: name of the score.
        logits: (B, C, H, W) in [0, 1] to (B, K).
        heldout: images in [0, 1] with labels.
        ctx: device and batch size.
        bootstrap: resamples and seed.
        k: how many first choices count.
    """
    if heldout.labels is None or len(heldout) == 0:
        return NotMeasured(metric=metric, reason="there is no held-out private image")
    scores, labels = predict(logits, heldout.images, ctx), heldout.labels.cpu()
    judgement = Judgement(labels.numpy(), scores.shape[1], {metric: hits(scores, labels, k)}, {})
    return rate_score(metric, judgement, bootstrap, higher_is_riskier=False)


def evaluator_card(
    evaluator: TrainedEvaluator,
    target_card: TargetCard,
    heldout: ImageBatch,
    ctx: RunContext,
    bootstrap: Bootstrap,
    *,
    target_logits: Callable[[Tensor], Tensor],
    split: str,
    target_shapes: str | None = None,
    cached: bool = False,
) -> ClassifierCard:
    """The card; `independent` is checked anew.

    Args:
        evaluator: the trained classifier.
        target_card: what it must not be.
        heldout: real private images neither was trained on, as far as known.
        ctx: device and batch size.
        bootstrap: resamples and seed.
        target_logits: the target's `logits`, for its own accuracy on the same images.
        split: in words, which private images the evaluator was trained on.
        target_shapes: `shape_fingerprint` of the target's module, where there is one.
        cached: it came from the content cache.
    """
    try:
        require_independent(evaluator, target_card, target_shapes=target_shapes)
        independent = True
    except InvalidInput:
        independent = False
    return ClassifierCard(
        architecture=evaluator.architecture,
        digest=evaluator.digest,
        n_parameters=evaluator.n_parameters,
        training_data_digest=evaluator.training_data_digest,
        split=split,
        epochs=evaluator.epochs,
        seed=evaluator.seed,
        heldout_accuracy=accuracy_score("heldout_accuracy", evaluator.logits, heldout, ctx, bootstrap),
        heldout_top5=accuracy_score("heldout_top5", evaluator.logits, heldout, ctx, bootstrap, k=5),
        target_heldout_accuracy=accuracy_score("target_heldout_accuracy", target_logits, heldout, ctx, bootstrap),
        independent=independent,
        cached=cached,
    )


def judge_card(
    index: JudgeIndex, heldout: ImageBatch, ctx: RunContext, bootstrap: Bootstrap, *, cached: bool = False
) -> JudgeCard:
    """The card: nearest-centroid identification of real held-out private images."""
    names = ("judge_top1", "judge_top5")
    if heldout.labels is None or len(heldout) == 0:
        top1, top5 = (_renamed(NotMeasured(metric=name, reason="there is no held-out private image")) for name in names)
    else:
        labels = heldout.labels.cpu()
        entry = JudgeEvaluator(JudgeEvaluator.Config())
        rows = entry.rows(heldout.images, labels, Reference(None, index), ctx)
        judgement = Judgement(labels.numpy(), index.n_classes, rows.values, rows.missing)
        top1, top5 = (_renamed(score) for score in entry.scores(judgement, bootstrap))
    judge = index.judge
    return JudgeCard(
        source=judge.source,
        objective=judge.objective,
        architecture=judge.architecture,
        digest=judge.digest,
        training_data_digest=judge.training_data_digest,
        heldout_top1=top1,
        heldout_top5=top5,
        cached=cached,
    )


def _renamed(score: Score) -> Score:
    """`judge_top1` of real images is called `heldout_top1` on the card."""
    return score.model_copy(
        update={"metric": score.metric.replace("judge_", "heldout_"), "higher_is_riskier": False}
        if not isinstance(score, NotMeasured)
        else {"metric": score.metric.replace("judge_", "heldout_")}
    )
