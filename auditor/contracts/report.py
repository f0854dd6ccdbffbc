"""The audit report: the one artifact that every door (CLI, CI, page) reads."""

from __future__ import annotations

from pydantic import Field, model_validator

from auditor.contracts.base import Contract
from auditor.contracts.cards import ClassifierCard, DataCard, JudgeCard, OverlapCheck, PriorCard
from auditor.contracts.fisher import FisherReport
from auditor.contracts.gate import GateDecision, GateFinding
from auditor.contracts.outcome import AttackOutcome
from auditor.contracts.plan import AuditPlan
from auditor.contracts.policy import Policy, RiskLevel, Verdict
from auditor.contracts.scores import NotMeasured, Score
from auditor.contracts.submission import TargetCard

LOOSENED = "policy-loosened"
"""Code of the findings about the policy."""


class AttackLevel(Contract):
    """How the policy read one attack."""

    key: str
    level: RiskLevel | None
    """None: this attack decides nothing."""
    rule: str
    """The rule of the table that fired, e.g. `E3.3`."""
    reason: str


class RiskVerdict(Contract):
    """The gate's answer, with every reason."""

    verdict: Verdict
    level: RiskLevel | None
    """None when inconclusive."""
    reasons: tuple[str, ...]
    needs: tuple[str, ...] = ()
    """What would settle an inconclusive verdict."""
    attacks: tuple[AttackLevel, ...] = ()
    vector: str = ""
    """CVSS-like summary string (not an official scheme)."""
    policy_digest: str


class Finding(Contract):
    """Something a reviewer must know that is not a number of an attack."""

    code: str
    severity: str = Field(pattern="^(info|warning|problem)$")
    message: str


def policy_findings(policy: Policy) -> tuple[Finding, ...]:
    """That a policy is looser than the built-in one, a finding a way; every decision by it carries them."""
    told = "This policy is looser than the built-in one"
    return tuple(Finding(code=LOOSENED, severity="warning", message=f"{told}: {line}.") for line in policy.loosened())


class Provenance(Contract):
    """What produced the report. Times and machine are here only, so scores can be compared byte by byte."""

    code_digest: str
    plan_digest: str
    data_digest: str
    versions: dict[str, str]
    device: str
    seed: int
    started_at: str
    """ISO 8601, UTC."""
    seconds: dict[str, float]
    """Wall time by stage."""
    peak_memory_bytes: int | None = None


class AuditReport(Contract):
    """A complete audit of one target."""

    schema_version: int = 1
    id: str
    """sha256 over plan, policy, target, data and code version: the same audit has the same id."""
    content_digest: str = ""
    """sha256 over the whole report but this field and `gate`; not a signature."""
    target: TargetCard
    plan: AuditPlan
    policy: Policy
    data: tuple[DataCard, ...]
    overlap: OverlapCheck
    evaluator: ClassifierCard | NotMeasured
    judge: JudgeCard | NotMeasured
    priors: tuple[PriorCard, ...]
    attacks: tuple[AttackOutcome, ...]
    fisher: FisherReport | NotMeasured
    weights_published: bool = False
    verdict: RiskVerdict
    findings: tuple[Finding, ...] = ()
    limitations: tuple[str, ...] = ()
    gallery_digest: str | None = None
    """Artifact with the pictures; kept apart, since pictures of people are access-controlled and expire."""
    provenance: Provenance
    gate: GateDecision | None = None
    """What another policy, waivers and a baseline made of the verdict when this was written; no command reads that."""

    def failures(self) -> tuple[GateFinding, ...]:
        """What fails under the verdict of the evidence, one finding an attack; empty unless that is a fail."""
        if self.verdict.verdict is not Verdict.FAIL:
            return ()
        outcomes = {outcome.key: outcome for outcome in self.attacks}
        return tuple(
            GateFinding(
                key=f"attack:{read.key}",
                attack=read.key,
                rule=read.rule,
                level=read.level,
                message=read.reason,
                classes=outcomes[read.key].named_classes_by_name if read.key in outcomes else (),
            )
            for read in self.verdict.attacks
            if read.level is not None and read.level.rank >= self.policy.fail_on.rank
        )

    @property
    def target_accuracy(self) -> Score:
        """The target's own accuracy on the held-out private images."""
        return self.evaluator if isinstance(self.evaluator, NotMeasured) else self.evaluator.target_heldout_accuracy

    @property
    def decision(self) -> GateDecision:
        """`gate`, or the same without waivers and baseline."""
        return self.gate or GateDecision(
            verdict=self.verdict.verdict,
            evidence=self.verdict.verdict,
            level=self.verdict.level,
            findings=self.failures(),
        )


class GalleryRow(Contract):
    """A class's reconstructions beside the nearest public image."""

    label: int
    name: str
    attack: str
    reconstructions_png: tuple[bytes, ...]
    """PNG files, base64 in JSON."""
    nearest_public_png: bytes | None
    accepted: tuple[bool, ...]
    """Accepted by evaluator and judge, per reconstruction."""
    originals_png: tuple[bytes, ...] = ()
    """Attacks on one observed image each (split inference): the private images behind the reconstructions."""

    @model_validator(mode="after")
    def _paired(self) -> GalleryRow:
        if len(self.accepted) != len(self.reconstructions_png):
            raise ValueError(f"{len(self.accepted)} of {len(self.reconstructions_png)} reconstructions are judged")
        return self


class Gallery(Contract):
    """The pictures of one report."""

    rows: tuple[GalleryRow, ...]
