"""The gate's decision on a stored report: the evidence first, then waivers, then a baseline; no renderer has a say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from auditor.contracts.base import digest_of
from auditor.contracts.gate import BaselineComparison, FindingState, GateDecision, GateFinding
from auditor.contracts.plan import AuditPlan
from auditor.contracts.policy import Policy, Verdict
from auditor.contracts.report import LOOSENED, AuditReport, policy_findings
from auditor.contracts.waiver import Waiver
from auditor.risk.assessment import Assessment, Reading, text_of
from auditor.risk.baseline import against
from auditor.risk.completeness import counts
from auditor.risk.decide import assess_report, decide_on, verdict_of
from auditor.risk.exit_code import worst_verdict
from auditor.risk.waivers import Waived, waive

_AGAIN = (
    "the stored verdict is worse than what its evidence gives by today's rules, and keeps its force whatever is waived "
    "or known: audit the model again"
)


@dataclass(frozen=True, slots=True)
class Baseline:
    """A complete, comparable audit, and what the comparison with it gave."""

    report: AuditReport
    comparison: BaselineComparison


def decide_gate(
    report: AuditReport,
    policy: Policy,
    *,
    waivers: Sequence[Waiver] = (),
    baseline: Baseline | None = None,
    today: date | None = None,
) -> AuditReport:
    """The report as `policy` decides on its evidence, with the gate's decision in `gate`.

    An inconclusive audit stays one: waivers and baseline speak about proven findings only. A stored verdict that is
    worse than what its evidence gives by its own policy keeps its force, whatever is waived or known, and no other
    policy makes a pass of it.

    Args:
        report: as stored.
        policy: to decide by.
        waivers: of any model; those of others are left out.
        baseline: compare with this audit.
        today: in UTC; needed where there are waivers.
    """
    found = assess_report(report, policy)
    decided = _decided(report, found, policy)
    by_own = decided
    if not same_policy(report, policy):
        by_own = _decided(report, assess_report(report, report.policy), report.policy)
    outdated = _was_worse(report, by_own)
    evidence = _cautious(report, policy, decided.verdict.verdict, outdated=outdated)
    laid = Waived(decided.failures())
    if waivers and today is not None:
        readings = {reading.key: reading for reading in found.readings}
        own = [waiver for waiver in waivers if waiver.model == report.target.name]
        laid = waive(laid.findings, readings, own, plan=report.plan, policy=policy, today=today)
    findings = laid.findings
    if baseline is not None:
        findings = against(baseline.report, decided, baseline.comparison, findings)
    aside = {finding.attack: laid.aside.get(finding.attack) for finding in findings if _is_aside(finding)}
    verdict = evidence
    missing: tuple[str, ...] = () if evidence is decided.verdict.verdict else (_AGAIN,)
    if aside:
        verdict, missing = _beside(found, aside, report.plan, policy)
        if outdated:
            verdict = worst_verdict([verdict, Verdict.INCONCLUSIVE])
            missing = (*missing, _AGAIN)
    decision = GateDecision(
        verdict=verdict,
        evidence=evidence,
        level=decided.verdict.level,
        policy=None if same_policy(report, policy) else policy,
        findings=findings,
        waivers=laid.uses,
        baseline=None if baseline is None else baseline.comparison,
        missing=missing,
        decided_on=today if laid.uses else None,
    )
    return decided.model_copy(update={"gate": decision})


def by_its_evidence(report: AuditReport) -> AuditReport:
    """The report as stored, or as decided anew where its evidence fares worse by today's rules under its own policy."""
    decided = decide_gate(report, report.policy)
    stored = report.decision.verdict
    return report if worst_verdict([stored, decided.decision.verdict]) is stored else decided


def same_policy(report: AuditReport, policy: Policy) -> bool:
    """Whether the report's own verdict was made by `policy`, whatever it is called."""
    return digest_of(policy.model_copy(update={"name": report.policy.name})) == report.verdict.policy_digest


def _decided(report: AuditReport, found: Assessment, policy: Policy) -> AuditReport:
    """The report with the verdict that `policy` gives on what was found in it."""
    told = [item for item in report.findings if item.code != LOOSENED]
    return report.model_copy(
        update={
            "policy": policy,
            "verdict": decide_on(found, report.plan, policy),
            "findings": (*told, *policy_findings(policy)),
        }
    )


def _cautious(report: AuditReport, policy: Policy, decided: Verdict, *, outdated: bool) -> Verdict:
    """The worse of the stored verdict and the new one where one policy gave both; else no pass on what was worse."""
    if same_policy(report, policy):
        return worst_verdict([decided, report.verdict.verdict])
    return worst_verdict([decided, Verdict.INCONCLUSIVE]) if outdated else decided


def _was_worse(stored: AuditReport, own: AuditReport) -> bool:
    """Whether the stored verdict holds something that nothing found today by the same policy accounts for."""
    if stored.verdict.verdict is not Verdict.FAIL:
        return stored.verdict.verdict is Verdict.INCONCLUSIVE and own.verdict.verdict is not Verdict.INCONCLUSIVE
    today = {finding.key: finding.level.rank for finding in own.failures()}
    before = stored.failures()
    return not before or any(finding.level.rank > today.get(finding.key, -1) for finding in before)


def _is_aside(finding: GateFinding) -> bool:
    return finding.state is not FindingState.FAILING


def _beside(
    found: Assessment, aside: Mapping[str, Reading | None], plan: AuditPlan, policy: Policy
) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict on what is neither waived nor known, and what keeps that from a pass."""
    rest = [reading for reading in found.readings if reading.key not in aside]
    rest += [reading for reading in aside.values() if reading is not None]
    verdict, _ = verdict_of(rest, found.missing, plan, policy)
    missing = [shortfall.reason for shortfall in found.told] if found.missing else []
    graded = [reading for reading in rest if counts(reading.evidence, plan)]
    missing += [text_of(reading) for reading in graded if reading.level.level is None]
    if verdict is Verdict.INCONCLUSIVE and not missing:
        verdict = Verdict.PASS  # every attack that counts is waived or known
    return verdict, tuple(dict.fromkeys(missing)) if verdict is Verdict.INCONCLUSIVE else ()
