"""A baseline beside the audit that it is to excuse: refused where it cannot be compared, else paired by class."""

from __future__ import annotations

from auditor.contracts.gate import Approval
from auditor.contracts.report import AuditReport
from auditor.evaluation.paired import compare_reports, plan_differences
from auditor.evaluation.rerun_noise import exposed_classes, risen_attacks, too_few_pictures
from auditor.risk.baseline import check_comparable, check_complete, compare
from auditor.risk.gate import Baseline


def compared(baseline: AuditReport, report: AuditReport, approval: Approval | None = None) -> Baseline:
    """What the gate needs of a baseline.

    Args:
        baseline: an earlier audit.
        report: the audit to be decided.
        approval: of the baseline, where a team approved it.

    Raises:
        InvalidInput: the baseline is not complete, or its numbers cannot be paired with this audit's.
    """
    check_complete(baseline)
    check_comparable(baseline, report, plan_differences(baseline, report))
    comparison = compare(
        baseline,
        report,
        compare_reports(baseline, report),
        risen=risen_attacks(baseline, report),
        exposed=exposed_classes(baseline, report),
        unseen=too_few_pictures(baseline, report),
        approval=approval,
    )
    return Baseline(baseline, comparison)
