"""What `prepare` found, as the later units of an audit read it."""

from __future__ import annotations

from auditor.contracts.base import Contract
from auditor.contracts.cards import ClassifierCard, DataCard, JudgeCard, OverlapCheck, PriorCard
from auditor.contracts.jobs import AttackReadiness
from auditor.contracts.report import Finding
from auditor.contracts.scores import NotMeasured


class PreparedAudit(Contract):
    """Cards, classes and readiness of one audit."""

    classes: tuple[int, ...]
    """Attacked classes, ascending."""
    classes_unjudged: tuple[int, ...] = ()
    """Classes that were drawn too, but have no private or no held-out images, or are misread: planned and not done."""
    class_names: tuple[str, ...]
    """Name of every class of the target."""
    attacks: tuple[AttackReadiness, ...]
    data: tuple[DataCard, ...]
    overlap: OverlapCheck
    evaluator: ClassifierCard | NotMeasured
    judge: JudgeCard | NotMeasured
    priors: tuple[PriorCard, ...]
    findings: tuple[Finding, ...] = ()
    limitations: tuple[str, ...] = ()


class AttackCost(Contract):
    """What one attack unit spent."""

    forward_queries: int
    backward_queries: int
    pool_queries: int = 0
    """Of `forward_queries`: images sent however many classes are attacked."""
    complete: bool = True
    """False: the query budget ran out before the attack's planned end."""
    notes: tuple[str, ...] = ()
