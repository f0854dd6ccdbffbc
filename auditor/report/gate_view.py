"""The gate's decision in words: every format says the same about waivers, baseline and what is unfinished."""

from __future__ import annotations

from auditor.contracts.gate import BaselineComparison, FindingState, GateFinding
from auditor.contracts.outcome import OutcomeStatus
from auditor.contracts.policy import Verdict
from auditor.contracts.report import AuditReport
from auditor.contracts.waiver import Waiver, WaiverState, WaiverUse
from auditor.report.wording import VERDICT_SIGN, VERDICT_WORD, percent


def gate_headline(report: AuditReport) -> str:
    """`FAIL · high`, `PASS WITH WAIVERS · high`: the level is that of the evidence whatever was waived."""
    decision = report.decision
    words = VERDICT_WORD[decision.verdict] if decision.verdict is not Verdict.PASS else decision.words
    told = decision.level is not None and decision.evidence is report.verdict.verdict
    return f"{words.upper()} · {decision.level}" if told else words.upper()


def gate_sign(report: AuditReport) -> str:
    """The mark before the headline; a pass that the evidence does not give has its own."""
    decision = report.decision
    excused = decision.verdict is Verdict.PASS and decision.evidence is not Verdict.PASS
    return "!" if excused else VERDICT_SIGN[decision.verdict]


def gate_meaning(report: AuditReport) -> str:
    """What a decision beside the evidence means, in one sentence; empty where the evidence decided alone."""
    decision = report.decision
    if decision.verdict is decision.evidence:
        return ""
    if decision.verdict is Verdict.INCONCLUSIVE:
        return "What failed is waived or known, but the rest is not complete: do not read this as a pass."
    parts = []
    if decision.having(FindingState.WAIVED):
        parts.append("somebody answers for it")
    if decision.having(FindingState.KNOWN):
        parts.append("the baseline has it too")
    return f"The leak is proven and stands; the gate lets it through because {' or '.join(parts)}."


def finding_text(finding: GateFinding) -> str:
    """`attack:ppa (high, E3.3): the lift is ...`, with its state."""
    classes = f"; classes: {_some(finding.classes)}" if finding.classes else ""
    text = f"{finding.key} ({finding.level}, {finding.rule}): {finding.message}{classes}"
    if finding.state is FindingState.WAIVED:
        return f"waived by {', '.join(finding.waivers)}: {text}"
    if finding.state is FindingState.KNOWN:
        return f"known in the baseline: {text}"
    return f"fails: {text}" + (f"; worse than the baseline: {finding.regression}" if finding.regression else "")


def waiver_text(use: WaiverUse) -> str:
    """`W-1 (attack:ppa) applied until 2026-06-01: reason (approver)`; an expired one says so first."""
    waiver = use.waiver
    when = {
        WaiverState.EXPIRED: f"EXPIRED on {waiver.expires}, does nothing",
        WaiverState.PENDING: f"not yet in force (from {waiver.created}), does nothing",
        WaiverState.EXCEEDED: f"does nothing: the finding is above its `up_to` ({waiver.up_to})",
        WaiverState.PARTIAL: f"not enough by itself, until {waiver.expires}",
        WaiverState.UNUSED: f"unused, until {waiver.expires}",
        WaiverState.APPLIED: f"applied, until {waiver.expires}",
    }[use.state]
    return f"{waiver.id} ({waiver.finding}) {when}: {waiver.reason} (approved by {waiver.approver})"


def waivers_of(report: AuditReport, finding: GateFinding) -> tuple[Waiver, ...]:
    """The waivers that cover a finding."""
    return tuple(use.waiver for use in report.decision.waivers if use.waiver.id in finding.waivers)


def justification(report: AuditReport, finding: GateFinding) -> str:
    """Reason, approver and last day of every waiver that covers a finding."""
    return "; ".join(
        f"{waiver.reason} (waiver {waiver.id}, approved by {waiver.approver}, expires {waiver.expires})"
        for waiver in waivers_of(report, finding)
    )


def baseline_lines(comparison: BaselineComparison) -> tuple[str, ...]:
    """What was compared, what rose, and what an approval lets through."""
    lines = [f"Baseline: {comparison.model}, {comparison.verdict}, report {comparison.report_id[:12]}"]
    rises = ", ".join(comparison.rises)
    if rises:
        lines.append(f"Finds more than in the baseline, beyond interval noise: {rises}")
    if comparison.exposed:
        lines.append(
            f"Classes exposed more than in the baseline, beyond what another run would: {exposed_text(comparison)}"
        )
    if not rises and not comparison.exposed:
        lines.append("Nothing rose beyond noise, of no attack and of no class.")
    if comparison.approval is not None:
        approval = comparison.approval
        through = ", ".join(f"{key} (up to {level})" for key, level in approval.findings.items()) or "nothing"
        lines.append(f"Approved by {approval.approver} on {approval.approved}; lets through: {through}")
    return (*lines, *(f"Note: {note}" for note in comparison.notes))


def exposed_text(comparison: BaselineComparison) -> str:
    """`person-003 (0 of 40, now 31 of 40), ...`: pictures accepted of pictures made, of all attacks of both audits."""
    return _some(tuple(found.told for found in comparison.exposed))


def decision_lines(report: AuditReport) -> tuple[str, ...]:
    """Everything that waivers and a baseline did; empty where neither was given."""
    gate = report.gate
    if gate is None or (not gate.waivers and gate.baseline is None):
        return ()
    lines = [finding_text(finding) for finding in gate.findings]
    lines += [f"waiver {waiver_text(use)}" for use in gate.waivers]
    lines += baseline_lines(gate.baseline) if gate.baseline is not None else ()
    return tuple(lines)


def unfinished(report: AuditReport) -> tuple[str, ...]:
    """What was planned and did not run to its end; empty for a whole run."""
    done = {outcome.key for outcome in report.attacks}
    lines = [f"{spec.key}: no result" for spec in report.plan.attacks if spec.key not in done]
    for outcome in report.attacks:
        coverage = outcome.coverage
        if outcome.status is OutcomeStatus.FAILED:
            lines.append(f"{outcome.key} crashed: {outcome.reason or 'see the log'}")
        elif outcome.status is OutcomeStatus.SKIPPED:
            lines.append(f"{outcome.key} was skipped: {outcome.reason or 'no reason given'}")
        elif outcome.status is OutcomeStatus.COMPLETED and coverage.samples_done < coverage.samples_planned:
            lines.append(f"{outcome.key}: {percent(coverage.frac)} of the planned samples are done")
    return tuple(lines)


def reasons_of(report: AuditReport) -> tuple[str, ...]:
    """Why the gate decided so: what it found beside the evidence, then the reasons of the evidence."""
    return (*report.decision.missing, *report.verdict.reasons)


def open_reasons(report: AuditReport) -> tuple[str, ...]:
    """Why the decision is inconclusive, or fails without a finding; empty where it is neither."""
    decision = report.decision
    if decision.verdict is Verdict.PASS or (decision.verdict is Verdict.FAIL and decision.having(FindingState.FAILING)):
        return ()
    return decision.missing or report.verdict.reasons or ("the evidence settles nothing",)


def _some(names: tuple[str, ...], most: int = 10) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
