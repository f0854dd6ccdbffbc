"""The audit as a GitLab code-quality report: a JSON list whose entries merge requests compare by fingerprint.

https://docs.gitlab.com/ci/testing/code_quality/ ; the format has no word for a waiver, so the description says it and
the severity falls to `info`.
"""

from __future__ import annotations

import json
from typing import Any

from auditor.contracts.gate import FindingState
from auditor.contracts.policy import RiskLevel
from auditor.contracts.report import AuditReport
from auditor.report.display import Display
from auditor.report.gate_view import waiver_text
from auditor.report.issues import INCOMPLETE, Issue, issues_of

_SEVERITY = {
    RiskLevel.CRITICAL: "blocker",
    RiskLevel.HIGH: "critical",
    RiskLevel.MEDIUM: "major",
    RiskLevel.LOW: "minor",
}


def render_gitlab(report: AuditReport, display: Display) -> str:
    """One entry an issue, at the first line of the anchor."""
    entries = [_entry(report, issue, display) for issue in issues_of(report, display)]
    return json.dumps(entries, indent=2, ensure_ascii=False) + "\n"


def _entry(report: AuditReport, issue: Issue, display: Display) -> dict[str, Any]:
    notes = [issue.message]
    if issue.waived:
        notes.append(f"Waived: {issue.justification}.")
    if issue.finding is not None:
        idle = [use for use in report.decision.waivers if use.waiver.finding == issue.finding.key]
        notes += [f"Waiver {waiver_text(use)}." for use in idle if use.waiver.id not in issue.finding.waivers]
    is_let_through = issue.finding is not None and issue.finding.state is not FindingState.FAILING
    severity = "info" if is_let_through else _SEVERITY[issue.severity]
    return {
        "description": f"{report.target.name} ({report.target.digest[:12]}): {' '.join(notes)}",
        "check_name": f"{issue.rule.id} {issue.rule.name}",
        "fingerprint": issue.fingerprint,
        "severity": "blocker" if issue.rule is INCOMPLETE and issue.subject == "verdict" else severity,
        "location": {"path": display.anchor, "lines": {"begin": 1}},
    }
