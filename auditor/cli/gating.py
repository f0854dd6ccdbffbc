"""Waivers and baselines of a command: read before anything runs, laid over a report before anything is printed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from auditor.errors import InvalidInput

if TYPE_CHECKING:
    from auditor.cli.options import House
    from auditor.contracts.gate import Approval
    from auditor.contracts.policy import Policy
    from auditor.contracts.report import AuditReport
    from auditor.contracts.waiver import Waiver
    from auditor.risk.gate import Baseline
    from auditor.service.records import StoredReport

APPROVED = "approved"
"""As a baseline: the audit that the team approved on its server. A file of this name is `./approved`."""


@dataclass(frozen=True, slots=True)
class Gating:
    """What was given beside the policy.

    Attributes:
        waivers: of all models; None: no file was named.
        baseline: a complete audit; None: none was named, or it is yet to be looked up.
        approval: of the baseline, where the team approved it.
        wants_approved: the baseline is the approved one of the model.
    """

    waivers: tuple[Waiver, ...] | None = None
    baseline: AuditReport | None = None
    approval: Approval | None = None
    wants_approved: bool = False

    @property
    def given(self) -> bool:
        """Whether either was."""
        return self.waivers is not None or self.baseline is not None or self.wants_approved

    def looked_up(self, house: House, model: str) -> Gating:
        """With the baseline that the team has approved by now, where that one is wanted.

        Raises:
            InvalidInput: there is no server to ask, or what was approved is not complete.
            NotFound: nothing is approved.
        """
        if not self.wants_approved:
            return self
        from auditor.client.remote import RemoteServices
        from auditor.risk.baseline import check_complete

        if not isinstance(house, RemoteServices):
            raise InvalidInput(
                "--baseline approved: approvals are kept on a server, and none is configured",
                remedy="Log in with `auditor login URL`, or name a JSON report as the baseline.",
            )
        baseline, approval = house.reviews.approved_baseline(model)
        check_complete(baseline)
        return replace(self, baseline=baseline, approval=approval)


def read_gating(waivers: Path | None, baseline: str | None) -> Gating:
    """Read both; a file or a baseline that cannot be used is an error, and never as good as none."""
    from auditor.risk.baseline import check_complete
    from auditor.risk.waivers import read_waivers

    found = None if waivers is None else read_waivers(waivers).waivers
    if baseline == APPROVED:
        return Gating(found, wants_approved=True)
    earlier = None if baseline is None else read_or_find(baseline, full=True)
    if earlier is not None:
        check_complete(earlier)
    return Gating(found, earlier)


def read_or_find(reference: str | Path, *, full: bool = False) -> AuditReport:
    """The report in a file; where there is none of this name, the stored one with this id.

    With `full`, raises InvalidInput for the stored one of a repair's quick trial.
    """
    from auditor.report.read import read_audit_report

    path = Path(reference)
    if path.exists() or path.suffix or len(path.parts) > 1:
        return read_audit_report(path)
    from auditor.cli.options import services
    from auditor.service.audits import require_full

    audits = services().audits
    entry = audits.find_report(str(reference))
    if full:
        require_full(entry, str(reference))
    tell_trial(entry, str(reference))
    return audits.get_report(str(reference))


def tell_trial(entry: StoredReport, reference: str) -> None:
    """Say on stderr where a stored report is that of a repair's quick trial."""
    if entry.is_trial:
        typer.echo(f"note: '{reference}' is a quick trial of a repair, not a full audit", err=True)


def policy_of(report: AuditReport, reference: str | Path) -> Policy:
    """The policy of a report, or of the gate that wrote its file where the evidence fares worse under that one.

    Never where it fares better: files are edited.
    """
    from auditor.report.read import policy_of_gate
    from auditor.risk.exit_code import worst_verdict
    from auditor.risk.gate import decide_gate

    asked = policy_of_gate(Path(reference)) if Path(reference).is_file() else None
    if asked is None or asked.thresholds.named_rate != report.policy.thresholds.named_rate:
        return report.policy
    own, there = (decide_gate(report, policy).decision.verdict for policy in (report.policy, asked))
    if there is own or worst_verdict([own, there]) is own:
        return report.policy
    typer.echo(
        f"note: the gate that wrote {reference} decided by policy '{asked.label}': {there}; so does this", err=True
    )
    return asked


def gated(report: AuditReport, gating: Gating, policy: Policy | None = None) -> AuditReport:
    """The report with the gate's decision; where no waiver, baseline or policy was given, see `by_its_evidence`.

    A server has decided with the waivers of its team: these count beside those of a file, and by the server's day. Its
    report holds the stored verdict, so what the evidence gives is read from it anew.
    """
    from auditor.risk.gate import by_its_evidence, decide_gate

    if not gating.given and policy is None and report.gate is None:
        return by_its_evidence(report)
    there = report.decision
    waivers = {waiver.id: waiver for waiver in (*(gating.waivers or ()), *(use.waiver for use in there.waivers))}
    decided = decide_gate(
        report,
        policy or report.policy,
        waivers=tuple(waivers.values()),
        baseline=None if gating.baseline is None else _compared(gating.baseline, report, gating.approval),
        today=there.decided_on or today(),
    )
    others = [waiver for waiver in gating.waivers or () if waiver.model != report.target.name]
    if others:
        typer.echo(f"note: {len(others)} waivers are for other models than {report.target.name}", err=True)
    return decided


def _compared(baseline: AuditReport, report: AuditReport, approval: Approval | None) -> Baseline:
    from auditor.service.baselines import compared  # what compares reaches numpy, which no gate without one waits for

    return compared(baseline, report, approval)


def today() -> date:
    """The day by which waivers expire, in UTC."""
    return datetime.now(UTC).date()
