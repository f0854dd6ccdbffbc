"""What one attack did to one target, and the evidence the policy reads."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, JsonValue

from auditor.contracts.access import Access
from auditor.contracts.base import Contract
from auditor.contracts.scores import NotMeasured, Score


class OutcomeStatus(StrEnum):
    """How an attack ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    """It raised; the error is in the outcome and the verdict is inconclusive."""
    SKIPPED = "skipped"
    """It could not run on this submission, and the reason says why."""
    INAPPLICABLE = "inapplicable"
    """Its method has nothing to work on in this model, whoever attacks it: nothing is missing."""

    @property
    def ran(self) -> bool:
        """Whether there is anything to judge."""
        return self not in (OutcomeStatus.SKIPPED, OutcomeStatus.INAPPLICABLE)


class Coverage(Contract):
    """Done over planned."""

    classes_done: int
    classes_planned: int
    samples_done: int
    samples_planned: int

    @property
    def frac(self) -> float:
        """Samples done over planned, in [0, 1]."""
        return self.samples_done / self.samples_planned if self.samples_planned else 0.0


Share = Annotated[float, Field(ge=0, le=1)]


class ClassRow(Contract):
    """One class under one attack: shares of that class's images, in [0, 1]."""

    label: int
    name: str
    n: int = Field(ge=0, le=1_000_000)
    evaluator_top1: Share
    evaluator_top5: Share
    judge_top1: Share
    judge_top5: Share
    both: Share
    control_both: Share
    """Prior-only samples that both would accept as this class."""
    ceiling_both: Share | None
    """Projected real images of this class that both accept; None: no held-out image."""
    knn: float | None
    """Mean squared L2 distance to the nearest private image of the class in the evaluator's features."""


class AttackOutcome(Contract):
    """One attack of the plan: what it cost, whether it moved, and how its pictures were judged."""

    key: str
    attack: str
    access: Access
    paper: str
    params: dict[str, JsonValue]
    prior: str
    adaptive: bool
    """Built to see through a defense (gradient averaging and the like)."""
    unvetted: tuple[str, ...] = ()
    """Parameters weaker or other than all it was seen to work with: such an attack proves leaks and clears nothing."""
    is_control: bool = False
    """`best-of-prior`: selection by the target without optimisation."""
    status: OutcomeStatus
    reason: str = ""
    coverage: Coverage
    forward_queries: int = 0
    """Images sent forward through the target."""
    pool_queries: int = 0
    """Of `forward_queries`: images sent however many classes are attacked, such as a pool of prior samples."""
    shared_queries: int = 0
    """Images sent to the target once for all classes beforehand: by the training of its prior or helper networks."""
    backward_queries: int = 0
    start_confidence: float | None = None
    """Mean target confidence in the wanted class before the attack."""
    end_confidence: float | None = None
    moved: bool = False
    """The target's confidence rose above its start; an attack that did not move cannot count towards a pass."""
    scores: tuple[Score, ...] = ()
    """`evaluator_top1`, `evaluator_top5`, `judge_top1`, `judge_top5`, `both_agree`, `implied_fpr`, `knn_distance`,
    `control_evaluator`, `control_judge`, `control_both`, `ceiling_both`, `lift`; of attacks on a split model also
    `psnr`, `ssim`, `perceptual`, each with `control_` (another row's reconstruction) and `mean_image_`."""
    per_class: tuple[ClassRow, ...] = ()
    w95_high: float | None = None
    """Upper bound of the 95th percentile over classes of the posterior mean success rate."""
    named_classes: tuple[int, ...] = ()
    """Classes whose own rate exceeds their control by more than the policy's rate (Benjamini-Hochberg, 5 %)."""
    notes: tuple[str, ...] = ()

    def score(self, metric: str) -> Score:
        """The score named `metric`, or a NotMeasured that says it is absent."""
        for score in self.scores:
            if score.metric == metric:
                return score
        return NotMeasured(metric=metric, reason=self.reason or "not part of this outcome")

    @property
    def named_classes_by_name(self) -> tuple[str, ...]:
        """Names of the classes that leak for certain; of one without a row, its index."""
        names = {row.label: row.name for row in self.per_class}
        return tuple(names.get(label, str(label)) for label in self.named_classes)
