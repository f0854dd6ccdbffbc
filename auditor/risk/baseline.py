"""An earlier audit as the baseline: what may serve as one, and what is worse than it beyond interval noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from auditor.contracts.cards import ClassifierCard, JudgeCard
from auditor.contracts.gate import Approval, BaselineComparison, ExposedClass, FindingState, GateFinding
from auditor.contracts.outcome import OutcomeStatus
from auditor.contracts.policy import Verdict
from auditor.contracts.repair import PairedDifference
from auditor.contracts.report import AuditReport
from auditor.contracts.scores import Measured, NotMeasured
from auditor.errors import InvalidInput
from auditor.risk.decide import assess_report

_JUDGED_BY = ("both_agree", "lift")
"""What a rise is read from: rates that evaluator and judge agree on."""
_NAMES = {"both_agree": "both-agree rate", "lift": "lift"}
_SHOWN = 10
"""Classes that a reason names."""


def check_complete(baseline: AuditReport) -> None:
    """Refuse a baseline that is not a whole, settled audit; InvalidInput with every reason."""
    problems = shortcomings(baseline)
    if problems:
        raise InvalidInput(
            [f"baseline {baseline.id[:12]}: {problem}" for problem in problems],
            remedy="Give a complete audit as the baseline: run that one again, or resume it.",
        )


def shortcomings(baseline: AuditReport) -> list[str]:
    """Why an audit is not whole and settled; empty where it is."""
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
    return problems


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
    one, other = (audit.policy.thresholds.named_rate for audit in (baseline, report))
    if one != other:
        problems.append(f"classes that leak for certain were named at a rate of {one} there, and of {other} here")
    problems += _renamed(baseline, report)
    for name in ("evaluator", "judge"):
        if _digest(getattr(baseline, name)) != _digest(getattr(report, name)):
            problems.append(f"the two audits had different {name}s, so their rates cannot be compared")
    if problems:
        raise InvalidInput(
            [f"baseline {baseline.id[:12]}: {problem}" for problem in problems],
            remedy="Audit the baseline's model again with this plan and this data, and give that report.",
        )


def _renamed(baseline: AuditReport, report: AuditReport) -> list[str]:
    """Classes are paired by index: one that is another person by now would be excused by a stranger's leak."""
    before, now = (
        {(row.label, row.name) for outcome in audit.attacks for row in outcome.per_class}
        for audit in (baseline, report)
    )
    changed = [(label, old, new) for label, old in sorted(before - now) for same, new in sorted(now) if same == label]
    return [f"class {label} is '{old}' there and '{new}' here" for label, old, new in changed[:_SHOWN]]


def _digest(card: ClassifierCard | JudgeCard | NotMeasured) -> str | None:
    return None if isinstance(card, NotMeasured) else card.digest


def compare(
    baseline: AuditReport,
    report: AuditReport,
    differences: Sequence[PairedDifference],
    *,
    risen: Sequence[str],
    exposed: Sequence[ExposedClass],
    unseen: bool = False,
    approval: Approval | None = None,
) -> BaselineComparison:
    """What the baseline says about this audit.

    Args:
        baseline: a complete, comparable audit.
        report: the audit to be decided.
        differences: baseline minus report, paired by class.
        risen: attacks whose mean rose, when all of them are looked at together.
        exposed: classes that this audit finds more often, when all of them are looked at together.
        unseen: too few pictures were made of any class to show that.
        approval: of the baseline, where a team approved it.
    """
    shown = tuple(row for row in differences if row.metric in _JUDGED_BY)
    notes = []
    if baseline.provenance.data_digest != report.provenance.data_digest:
        notes.append("the two audits used different data")
    if baseline.provenance.code_digest != report.provenance.code_digest:
        notes.append("the two audits ran on different versions of the auditor")
    if unseen:
        notes.append("too few pictures of each class were made to show that a single one is exposed more")
    if baseline.target.digest == report.target.digest:
        notes.append("the baseline is an audit of the same file")
    return BaselineComparison(
        report_id=baseline.id,
        model=baseline.target.name,
        model_digest=baseline.target.digest,
        verdict=baseline.verdict.verdict,
        differences=shown,
        rises=tuple(dict.fromkeys(row.attack for row in shown if row.attack in risen and _rose(row))),
        exposed=tuple(exposed),
        approval=approval,
        notes=tuple(notes),
    )


def against(
    baseline: AuditReport, report: AuditReport, compared: BaselineComparison, findings: Sequence[GateFinding]
) -> tuple[GateFinding, ...]:
    """The findings; what the baseline has too and did not grow beyond interval noise is known, and fails nothing."""
    told = _told_by(compared, findings)
    return tuple(
        finding if finding.state is not FindingState.FAILING else _judged(baseline, report, compared, finding, told)
        for finding in findings
    )


def _told_by(compared: BaselineComparison, findings: Sequence[GateFinding]) -> dict[str, list[ExposedClass]]:
    """Newly exposed classes by the failing attack that finds them more often; by all, where none of these does."""
    failing = [finding.attack for finding in findings if finding.state is FindingState.FAILING]
    told: dict[str, list[ExposedClass]] = {attack: [] for attack in failing}
    for found in compared.exposed:
        for attack in [attack for attack in failing if attack in found.attacks] or failing:
            told[attack].append(found)
    return told


def _judged(
    baseline: AuditReport,
    report: AuditReport,
    compared: BaselineComparison,
    finding: GateFinding,
    told: Mapping[str, Sequence[ExposedClass]],
) -> GateFinding:
    reasons = (
        _regressions(baseline, report, compared, finding.attack, told[finding.attack])
        or _unknown(baseline, report, finding.attack)
        or _unanswered(compared.approval, finding)
    )
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


def _unanswered(approval: Approval | None, finding: GateFinding) -> list[str]:
    """An approval lets through what failed before its eyes: a waiver that ran out since is not made eternal by it."""
    if approval is None:
        return []
    let_through = approval.findings.get(finding.key)
    if let_through is None:
        return [f"the approval of {approval.approved} does not let it through (it passed then, or was waived)"]
    if finding.level.rank > let_through.rank:
        return [f"the approval of {approval.approved} lets it through up to {let_through}"]
    return []


def _regressions(
    baseline: AuditReport,
    report: AuditReport,
    compared: BaselineComparison,
    attack: str,
    exposed: Sequence[ExposedClass],
) -> list[str]:
    before = {outcome.key: outcome for outcome in baseline.attacks}
    (now,) = [outcome for outcome in report.attacks if outcome.key == attack]
    if attack not in before or not before[attack].status.ran:
        return ["the baseline was not attacked by it"]
    unseen = {row.label for row in now.per_class} - {row.label for row in before[attack].per_class}
    reasons = [f"{len(unseen)} of its classes were not attacked in the baseline"] if unseen else []
    if exposed:
        shown = ", ".join(found.told for found in exposed[:_SHOWN]) + (", ..." if len(exposed) > _SHOWN else "")
        reasons.append(f"classes exposed more than in the baseline: {shown}")
    rows = [row for row in compared.differences if row.attack == attack]
    unpaired = [
        row.metric for row in rows if isinstance(row.after, Measured) and not isinstance(row.difference, Measured)
    ]
    if unpaired or not any(isinstance(row.difference, Measured) for row in rows):
        told = " and ".join(_NAMES[metric] for metric in unpaired or _JUDGED_BY)
        reasons.append(f"its {told} cannot be paired with the baseline's")
    reasons += [_text(row) for row in rows if attack in compared.rises and _rose(row)]
    return reasons


def _rose(row: PairedDifference) -> bool:
    return isinstance(row.difference, Measured) and row.difference.high < 0


def _text(row: PairedDifference) -> str:
    assert isinstance(row.difference, Measured)  # noqa: S101
    return f"the {_NAMES[row.metric]} rose by at least {-row.difference.high:.2f}"
