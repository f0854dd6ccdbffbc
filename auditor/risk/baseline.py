"""An earlier audit as the baseline: what may serve as one, and what is worse than it beyond interval noise."""

from __future__ import annotations

from collections.abc import Sequence

from auditor.contracts.cards import ClassifierCard, JudgeCard
from auditor.contracts.gate import BaselineComparison, FindingState, GateFinding
from auditor.contracts.outcome import OutcomeStatus
from auditor.contracts.policy import Verdict
from auditor.contracts.repair import PairedDifference
from auditor.contracts.report import AuditReport
from auditor.contracts.scores import Measured
from auditor.errors import InvalidInput
from auditor.risk.decide import assess_report

_JUDGED_BY = ("both_agree", "lift")
"""What a rise is read from: rates that evaluator and judge agree on."""


def check_complete(baseline: AuditReport) -> None:
    """Refuse a baseline that is not a whole, settled audit; InvalidInput with every reason."""
    done = {outcome.key: outcome for outcome in baseline.attacks}
    problems = [f"{spec.key} has no result" for spec in baseline.plan.attacks if spec.key not in done]
    for outcome in baseline.attacks:
        if outcome.status is OutcomeStatus.INAPPLICABLE:
            continue
        coverage = outcome.coverage
        if outcome.status is not OutcomeStatus.COMPLETED:
            problems.append(f"{outcome.key} {outcome.status}: {outcome.reason}".rstrip(": "))
        elif coverage.samples_done < coverage.samples_planned or not coverage.samples_done:
            problems.append(f"{outcome.key}: {coverage.samples_done} of {coverage.samples_planned} samples are done")
    if baseline.verdict.verdict is Verdict.INCONCLUSIVE:
        problems.append("its verdict is inconclusive, so it settles nothing that could be compared with")
    if problems:
        raise InvalidInput(
            [f"baseline {baseline.id[:12]}: {problem}" for problem in problems],
            remedy="Give a complete audit as the baseline: run that one again, or resume it.",
        )


def check_comparable(baseline: AuditReport, report: AuditReport, plan_changes: Sequence[str]) -> None:
    """Refuse a baseline whose numbers cannot be paired with this audit's; InvalidInput with every reason.

    Args:
        baseline: a complete audit.
        report: the audit to be decided.
        plan_changes: how the plans differ.
    """
    problems = [f"the plans differ: {line}" for line in plan_changes]
    if baseline.target.name != report.target.name:
        problems.append(f"it is of the model '{baseline.target.name}', and this is '{report.target.name}'")
    if baseline.target.n_classes != report.target.n_classes:
        problems.append(f"the models have {baseline.target.n_classes} and {report.target.n_classes} classes")
    for name, kind in (("evaluator", ClassifierCard), ("judge", JudgeCard)):
        one, other = getattr(baseline, name), getattr(report, name)
        if isinstance(one, kind) and isinstance(other, kind) and one.digest != other.digest:
            problems.append(f"the two audits had different {name}s, so their rates cannot be compared")
    if problems:
        raise InvalidInput(
            [f"baseline {baseline.id[:12]}: {problem}" for problem in problems],
            remedy="Audit the baseline's model again with this plan and this data, and give that report.",
        )


def compare(baseline: AuditReport, report: AuditReport, differences: Sequence[PairedDifference]) -> BaselineComparison:
    """What the baseline says about this audit.

    Args:
        baseline: a complete, comparable audit.
        report: the audit to be decided.
        differences: baseline minus report, paired by class.
    """
    shown = tuple(row for row in differences if row.metric in _JUDGED_BY)
    notes = []
    if baseline.provenance.data_digest != report.provenance.data_digest:
        notes.append("the two audits used different data")
    if baseline.provenance.code_digest != report.provenance.code_digest:
        notes.append("the two audits ran on different versions of the auditor")
    if baseline.target.digest == report.target.digest:
        notes.append("the baseline is an audit of the same file")
    return BaselineComparison(
        report_id=baseline.id,
        model=baseline.target.name,
        model_digest=baseline.target.digest,
        verdict=baseline.verdict.verdict,
        differences=shown,
        rises=tuple(dict.fromkeys(row.attack for row in shown if _rose(row))),
        notes=tuple(notes),
    )


def against(
    baseline: AuditReport, report: AuditReport, compared: BaselineComparison, findings: Sequence[GateFinding]
) -> tuple[GateFinding, ...]:
    """The findings; what the baseline has too and did not grow beyond interval noise is known, and fails nothing."""
    return tuple(
        finding if finding.state is not FindingState.FAILING else _judged(baseline, report, compared, finding)
        for finding in findings
    )


def _judged(
    baseline: AuditReport, report: AuditReport, compared: BaselineComparison, finding: GateFinding
) -> GateFinding:
    reasons = _regressions(baseline, report, compared, finding.attack) or _unknown(baseline, report, finding.attack)
    if reasons:
        return finding.model_copy(update={"regression": "; ".join(reasons)})
    return finding.model_copy(update={"state": FindingState.KNOWN})


def _unknown(baseline: AuditReport, report: AuditReport, attack: str) -> list[str]:
    """A baseline excuses what it had too: an attack that does not fail there, by this policy, is no known finding."""
    readings = {reading.key: reading for reading in assess_report(baseline, report.policy).readings}
    proven = readings[attack].level.proven if attack in readings else None
    if proven is not None and proven.rank >= report.policy.fail_on.rank:
        return []
    return [f"the baseline does not fail by it (it proves {proven or 'no level'} there)"]


def _regressions(baseline: AuditReport, report: AuditReport, compared: BaselineComparison, attack: str) -> list[str]:
    before = {outcome.key: outcome for outcome in baseline.attacks}
    (now,) = [outcome for outcome in report.attacks if outcome.key == attack]
    if attack not in before or not before[attack].status.ran:
        return ["the baseline was not attacked by it"]
    known = {label for outcome in baseline.attacks for label in outcome.named_classes}
    new = [label for label in now.named_classes if label not in known]
    names = {row.label: row.name for row in now.per_class}
    reasons = []
    if new:
        shown = ", ".join(names.get(label, str(label)) for label in new[:10]) + (", ..." if len(new) > 10 else "")
        reasons.append(f"classes that leak for certain and did not in the baseline: {shown}")
    rows = [row for row in compared.differences if row.attack == attack]
    if not any(isinstance(row.difference, Measured) for row in rows):
        reasons.append("its rates cannot be paired with the baseline's")
    reasons += [_text(row) for row in rows if _rose(row)]
    return reasons


def _rose(row: PairedDifference) -> bool:
    return isinstance(row.difference, Measured) and row.difference.high < 0


def _text(row: PairedDifference) -> str:
    assert isinstance(row.difference, Measured)  # noqa: S101
    names = {"both_agree": "the both-agree rate", "lift": "the lift"}
    return f"{names[row.metric]} rose by at least {-row.difference.high:.2f}"
