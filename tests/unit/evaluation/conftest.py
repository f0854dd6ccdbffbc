"""A small audit whose answers are known: smooth patterns as classes, one trained evaluator, one trained judge."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from auditor.contracts.plan import EvaluatorSpec, JudgeTraining
from auditor.evaluation.base import Reference
from auditor.evaluation.evaluator import TrainedEvaluator, train_evaluator
from auditor.evaluation.judge import Judge
from auditor.evaluation.judge_training import train_judge
from auditor.evaluation.judgement import build_reference
from auditor.tensors import ImageBatch, RunContext
from auditor.testing.builders import toy_images
from auditor.testing.toy import ToyPrior, ToyTarget, toy_templates

SHAPE = (1, 16, 16)
N_CLASSES = 12


@dataclass(frozen=True)
class SmallAudit:
    """Everything an evaluation needs, over 12 classes."""

    target: ToyTarget
    prior: ToyPrior
    fit: ImageBatch
    heldout: ImageBatch
    public: ImageBatch
    evaluator: TrainedEvaluator
    judge: Judge
    reference: Reference


@pytest.fixture(scope="session")
def ctx() -> RunContext:
    return RunContext(batch_size=64)


@pytest.fixture(scope="session")
def small_audit(ctx: RunContext) -> SmallAudit:
    torch.set_num_threads(1)
    templates = toy_templates(N_CLASSES, SHAPE)
    target, prior = ToyTarget(templates), ToyPrior(templates)
    fit, heldout = toy_images(templates, 10, seed=1), toy_images(templates, 4, seed=2)
    public = toy_images(toy_templates(40, SHAPE, seed=7), 6, seed=3)
    evaluator = train_evaluator(target.card, fit, EvaluatorSpec(epochs=8), ctx)
    judge = train_judge(public, JudgeTraining(epochs=6, embedding_dim=32), ctx)
    reference = build_reference(evaluator, judge, fit, N_CLASSES, ctx)
    return SmallAudit(target, prior, fit, heldout, public, evaluator, judge, reference)
