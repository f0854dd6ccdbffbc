"""The audit as SARIF 2.1.0 (OASIS standard), with what GitHub code scanning asks beyond the schema.

Results are anchored to a committed file, since results without one make an upload fail as a whole. Rule ids and
fingerprints stay over retrainings, so that an alert is one alert. A run that settles nothing, or whose stored verdict
alone fails, says `executionSuccessful: false` and carries a result that says why: it never looks clean.
"""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import quote

from auditor.contracts.gate import FindingState
from auditor.contracts.policy import RiskLevel
from auditor.contracts.report import AuditReport
from auditor.contracts.scores import Measured
from auditor.contracts.waiver import WaiverState
from auditor.report.display import Display
from auditor.report.gate_view import gate_headline, open_reasons, unfinished, waiver_text
from auditor.report.issues import RULES, Issue, Rule, issues_of
from auditor.report.view import totals

SCHEMA = "https://raw.githubusercontent.com/oasis-tcs/sarif-spec/master/Schemata/sarif-schema-2.1.0.json"
HELP = "https://atlas.mitre.org/techniques/AML.T0024.001"
"""The published description of the technique."""
_SEVERITY = {RiskLevel.CRITICAL: "9.5", RiskLevel.HIGH: "8.0", RiskLevel.MEDIUM: "5.5", RiskLevel.LOW: "2.0"}
_LEVEL = {
    RiskLevel.CRITICAL: "error",
    RiskLevel.HIGH: "error",
    RiskLevel.MEDIUM: "warning",
    RiskLevel.LOW: "note",
}
_TAGS = ["security", "privacy", "model-inversion"]


def render_sarif(report: AuditReport, display: Display) -> str:
    """One run of one model; the category is `auditor/<model>/`."""
    issues = issues_of(report, display)
    run = {
        "tool": {"driver": _driver(report, issues)},
        "automationDetails": {"id": f"auditor/{report.target.name}/{report.id[:16]}"},
        "invocations": [_invocation(report)],
        "results": [_result(report, issue, display) for issue in issues],
        "properties": _properties(report),
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2, ensure_ascii=False) + "\n"


def _driver(report: AuditReport, issues: tuple[Issue, ...]) -> dict[str, Any]:
    worst = {rule.id: [issue.severity for issue in issues if issue.rule is rule] for rule in RULES}
    return {
        "name": "auditor",
        "version": report.provenance.versions.get("auditor", "0"),
        "rules": [_rule(rule, max(worst[rule.id], key=lambda level: level.rank, default=None)) for rule in RULES],
    }


def _rule(rule: Rule, worst: RiskLevel | None) -> dict[str, Any]:
    severity = worst or rule.severity
    return {
        "id": rule.id,
        "name": rule.name,
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.text},
        "helpUri": HELP,
        "help": {"text": f"{rule.text} {rule.help}", "markdown": f"**{rule.title}.** {rule.text}\n\n{rule.help}"},
        "defaultConfiguration": {"level": _LEVEL[rule.severity]},
        "properties": {"tags": _TAGS, "precision": "high", "security-severity": _SEVERITY[severity]},
    }


def _result(report: AuditReport, issue: Issue, display: Display) -> dict[str, Any]:
    result: dict[str, Any] = {
        "ruleId": issue.rule.id,
        "ruleIndex": RULES.index(issue.rule),
        "level": _LEVEL[issue.severity],
        "message": {"text": _literal(issue.message)},
        "locations": [_location(report, issue, display)],
        "partialFingerprints": {"primaryLocationLineHash": f"{issue.fingerprint[:16]}:1"},
        "properties": {"riskLevel": str(issue.level), "subject": issue.subject} | _numbers(report, issue),
    }
    if issue.waived:
        result["suppressions"] = [{"kind": "external", "status": "accepted", "justification": issue.justification}]
    if issue.finding is not None:
        result["properties"]["state"] = str(issue.finding.state)
        if issue.finding.regression:
            result["properties"]["regression"] = issue.finding.regression
    return result


def _location(report: AuditReport, issue: Issue, display: Display) -> dict[str, Any]:
    return {
        "physicalLocation": {
            "artifactLocation": {"uri": quote(display.anchor)},
            "region": {"startLine": 1, "startColumn": 1, "endLine": 1, "endColumn": 1},
        },
        "logicalLocations": [
            {"name": issue.subject, "fullyQualifiedName": f"{report.target.name}/{issue.subject}", "kind": "object"}
        ],
    }


def _numbers(report: AuditReport, issue: Issue) -> dict[str, Any]:
    """The lift and the coverage behind a result of an attack."""
    for outcome in report.attacks:
        if outcome.key == issue.subject:
            lift = outcome.score("lift")
            numbers: dict[str, Any] = {"coverage": outcome.coverage.frac}
            if isinstance(lift, Measured):
                numbers |= {"lift": lift.value, "liftLow": lift.low, "liftHigh": lift.high}
            return numbers
    return {}


def _invocation(report: AuditReport) -> dict[str, Any]:
    decision = report.decision
    unsettled = open_reasons(report)
    level = "error" if unsettled else "warning"
    notes = [_note(text, level) for text in (*unsettled, *unfinished(report))]
    expired = [_note(f"waiver {waiver_text(use)}", "warning") for use in decision.waivers_in(WaiverState.EXPIRED)]
    return {
        "executionSuccessful": not notes,
        "startTimeUtc": report.provenance.started_at,
        "toolExecutionNotifications": notes,
        "toolConfigurationNotifications": expired,
    }


def _note(text: str, level: str) -> dict[str, Any]:
    return {"level": level, "message": {"text": _literal(text)}}


def _literal(text: str) -> str:
    """Text that holds neither a link nor a placeholder, which SARIF messages may (3.11.5, 3.11.6)."""
    return re.sub(r"\{(\d+)\}", r"{ \1 }", text.replace("](", "] ("))


def _properties(report: AuditReport) -> dict[str, Any]:
    decision = report.decision
    properties: dict[str, Any] = {
        "verdict": str(decision.verdict),
        "headline": gate_headline(report),
        "evidenceVerdict": str(decision.evidence),
        "riskLevel": str(decision.level or "none"),
        "coverage": totals(report).frac,
        "reportId": report.id,
        "modelSha256": report.target.digest,
        "policySha256": report.verdict.policy_digest,
        "failing": len(decision.having(FindingState.FAILING)),
        "waived": len(decision.having(FindingState.WAIVED)),
        "known": len(decision.having(FindingState.KNOWN)),
        "waivers": [waiver_text(use) for use in decision.waivers],
    }
    if decision.baseline is not None:
        properties["baseline"] = decision.baseline.model_dump(mode="json", exclude={"differences"})
    return properties
