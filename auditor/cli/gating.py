"""Waivers and baselines of a command: read before anything runs, laid over a report before anything is printed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from auditor.contracts.policy import Policy
    from auditor.contracts.report import AuditReport
    from auditor.contracts.waiver import Waiver
    from auditor.risk.gate import Baseline


@dataclass(frozen=True, slots=True)
class Gating:
    """What was given beside the policy.

    Attributes:
        waivers: of all models; None: no file was named.
        baseline: a complete audit; None: none was named.
    """

    waivers: tuple[Waiver, ...] | None = None
    baseline: AuditReport | None = None

    @property
    def given(self) -> bool:
        """Whether either was."""
        return self.waivers is not None or self.baseline is not None


def read_gating(waivers: Path | None, baseline: str | None) -> Gating:
    """Read both; a file or a baseline that cannot be used is an error, and never as good as none."""
    from auditor.risk.baseline import check_complete
    from auditor.risk.waivers import read_waivers

    found = None if waivers is None else read_waivers(waivers).waivers
    earlier = None if baseline is None else read_or_find(baseline)
    if earlier is not None:
        check_complete(earlier)
    return Gating(found, earlier)


def read_or_find(reference: str | Path) -> AuditReport:
    """The report in a file; where there is none of this name, the stored one with this id."""
    from auditor.report.read import read_audit_report

    path = Path(reference)
    if path.exists() or path.suffix or len(path.parts) > 1:
        return read_audit_report(path)
    from auditor.cli.options import services

    return services().audits.get_report(str(reference))


def gated(report: AuditReport, gating: Gating, policy: Policy | None = None) -> AuditReport:
    """The report with the gate's decision; as stored where no waiver, baseline or other policy was given."""
    if not gating.given and policy is None:
        return report
    from auditor.risk.gate import decide_gate

    decided = decide_gate(
        report,
        policy or report.policy,
        waivers=gating.waivers or (),
        baseline=None if gating.baseline is None else _compared(gating.baseline, report),
        today=today(),
    )
    others = [waiver for waiver in gating.waivers or () if waiver.model != report.target.name]
    if others:
        typer.echo(f"note: {len(others)} waivers are for other models than {report.target.name}", err=True)
    return decided


def _compared(baseline: AuditReport, report: AuditReport) -> Baseline:
    from auditor.evaluation.paired import compare_reports, plan_differences
    from auditor.risk.baseline import check_comparable, compare
    from auditor.risk.gate import Baseline

    check_comparable(baseline, report, plan_differences(baseline, report))
    return Baseline(baseline, compare(baseline, report, compare_reports(baseline, report)))


def today() -> date:
    """The day by which waivers expire, in UTC."""
    return datetime.now(UTC).date()
