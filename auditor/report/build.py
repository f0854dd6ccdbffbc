"""Assemble the audit report: ids by content, findings and limitations in plain words."""

from __future__ import annotations

from collections.abc import Sequence

from auditor.contracts.base import digest_of
from auditor.contracts.cards import ClassifierCard, DataCard, JudgeCard, OverlapCheck, PriorCard
from auditor.contracts.fisher import FisherReport
from auditor.contracts.outcome import AttackOutcome
from auditor.contracts.plan import AuditPlan
from auditor.contracts.policy import Policy
from auditor.contracts.repair import RepairReport
from auditor.contracts.report import AuditReport, Finding, Provenance, RiskVerdict
from auditor.contracts.scores import NotMeasured
from auditor.contracts.submission import TargetCard
from auditor.report.findings import findings_of, limitations_of


def data_digest_of(cards: Sequence[DataCard]) -> str:
    """sha256 over the image sets by role; their order in the report does not matter."""
    return digest_of(sorted([card.role, card.digest] for card in cards))


def report_id_of(report: AuditReport) -> str:
    """sha256 over everything that decides an audit: plan, policy, target as read, data, code version.

    The same audit has the same id, whenever and wherever it runs.
    """
    return digest_of(
        {
            "plan": report.provenance.plan_digest,
            "policy": report.verdict.policy_digest,
            "target": report.target.model_dump(mode="json"),
            "published": report.weights_published,
            "data": report.provenance.data_digest,
            "witnesses": [getattr(card, "digest", None) for card in (report.evaluator, report.judge)],
            "priors": [card.digest for card in report.priors],
            "code": report.provenance.code_digest,
        }
    )


def content_digest_of(report: AuditReport | RepairReport) -> str:
    """sha256 over all of a report but this digest and the gate's decision, which every command makes anew.

    It shows accidents and edits; it is not a signature.
    """
    return digest_of(report.model_dump(mode="json", exclude={"content_digest", "gate"}))


def sealed(report: RepairReport) -> RepairReport:
    """With the digest of its content."""
    return report.model_copy(update={"content_digest": content_digest_of(report)})


def build_report(
    *,
    target: TargetCard,
    plan: AuditPlan,
    policy: Policy,
    data: Sequence[DataCard],
    overlap: OverlapCheck,
    evaluator: ClassifierCard | NotMeasured,
    judge: JudgeCard | NotMeasured,
    priors: Sequence[PriorCard],
    attacks: Sequence[AttackOutcome],
    fisher: FisherReport | NotMeasured,
    verdict: RiskVerdict,
    weights_published: bool,
    code_digest: str,
    versions: dict[str, str],
    device: str,
    started_at: str,
    seconds: dict[str, float],
    peak_memory_bytes: int | None = None,
    gallery_digest: str | None = None,
    findings: Sequence[Finding] = (),
    limitations: Sequence[str] = (),
) -> AuditReport:
    """The complete report of one audit.

    `started_at` is ISO 8601 in UTC, `seconds` the wall time by stage. `findings` and `limitations` are what the stages
    themselves found; they come before what is derived from the evidence here and replace derived ones of their code.
    """
    plan_digest, data_digest = digest_of(plan), data_digest_of(data)
    derived = findings_of(
        target=target,
        policy=policy,
        overlap=overlap,
        evaluator=evaluator,
        judge=judge,
        priors=priors,
        attacks=attacks,
        fisher=fisher,
    )
    given = {finding.code for finding in findings}
    stated = limitations_of(target=target, data=data, attacks=attacks, judge=judge)
    draft = AuditReport(
        id="",
        target=target,
        plan=plan,
        policy=policy,
        data=tuple(data),
        overlap=overlap,
        evaluator=evaluator,
        judge=judge,
        priors=tuple(priors),
        attacks=tuple(attacks),
        fisher=fisher,
        weights_published=weights_published,
        verdict=verdict,
        findings=(*findings, *(finding for finding in derived if finding.code not in given)),
        limitations=tuple(dict.fromkeys((*limitations, *stated))),
        gallery_digest=gallery_digest,
        provenance=Provenance(
            code_digest=code_digest,
            plan_digest=plan_digest,
            data_digest=data_digest,
            versions=versions,
            device=device,
            seed=plan.seed,
            started_at=started_at,
            seconds=seconds,
            peak_memory_bytes=peak_memory_bytes,
        ),
    )
    named = draft.model_copy(update={"id": report_id_of(draft)})
    return named.model_copy(update={"content_digest": content_digest_of(named)})
