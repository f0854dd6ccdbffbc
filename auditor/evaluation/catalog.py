"""The evaluators: one file each, and a name here."""

from __future__ import annotations

from auditor.evaluation.agreement import AgreementEvaluator
from auditor.evaluation.base import Evaluator
from auditor.evaluation.classifier import ClassifierEvaluator
from auditor.evaluation.identification import JudgeEvaluator
from auditor.evaluation.knn import KnnEvaluator
from auditor.registry import Catalog

EVALUATORS: Catalog[Evaluator] = Catalog(
    "evaluator", (ClassifierEvaluator, JudgeEvaluator, AgreementEvaluator, KnnEvaluator)
)
"""Every evaluator, in the order of their scores. To add one: write its file, import it here, name it in the tuple."""
