"""The audit as JUnit XML: `failure` means that the gate failed because of it, and nothing else does.

Waived and known findings are `skipped` with their reason; what is inconclusive is an `error`, never a pass; checks that
pass are passing cases.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from junitparser import Error, Failure, Skipped
from junitparser.junitparser import FinalResult
from junitparser.xunit2 import JUnitXml, TestCase, TestSuite

from auditor.contracts.gate import FindingState, GateFinding
from auditor.contracts.outcome import AttackOutcome, OutcomeStatus
from auditor.contracts.policy import Verdict
from auditor.contracts.report import AuditReport
from auditor.contracts.scores import Measured
from auditor.report.gate_view import (
    baseline_lines,
    finding_text,
    gate_headline,
    justification,
    open_reasons,
    reasons_of,
    unfinished,
    waiver_text,
)
from auditor.report.view import AttackRow, attack_rows, totals
from auditor.report.wording import score_text

_CHECKS = {
    "model": {"score-level-only", "parity-failed", "model-warning", "target-below-evaluator"},
    "evaluator": {"no-evaluator"},
    "judge": {"no-judge", "evaluator-only-success", "evaluator-above-ceiling"},
    "data": {"no-private-data", "classes-unjudged", "misread-classes", "no-public-data"},
    "overlap": {"overlap-unchecked", "overlap-exact", "overlap-near", "overlap-copies", "overlap-unseen"},
    "priors": {"ceiling-unknown", "weak-prior", "narrow-prior"},
    "policy": {"policy-loosened"},
    "other": set[str](),
}
"""Checks by name, with the codes of the findings that belong to each; all the others belong to `other`."""
_OF_ATTACKS = ("attack-", "fisher-")
"""Beginnings of the codes that the cases of attacks speak about, or that no verdict depends on."""
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render_junit(report: AuditReport) -> str:
    """One suite of the model: a case for the gate, each attack, each kind of check, and coverage."""
    suite = TestSuite(f"auditor.{report.target.name}")
    suite.timestamp = report.provenance.started_at
    for name, value in _suite_properties(report):
        suite.add_property(name, _clean(value))
    suite.add_testcases([_gate(report), *_attacks(report), *_checks(report), _coverage(report)])
    document = JUnitXml("auditor")
    document.add_testsuite(suite)
    document.update_statistics()
    text: str = document.tostring().decode()
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'


def _case(report: AuditReport, group: str, name: str, result: FinalResult | None = None, *, said: str = "") -> TestCase:
    case = TestCase(_clean(name), classname=f"auditor.{report.target.name}.{group}")
    if result is not None:
        case.result = [result]
    if said:
        case.system_out = _clean(said)
    return case


def _gate(report: AuditReport) -> TestCase:
    decision = report.decision
    reasons = "\n".join(reasons_of(report))
    result: FinalResult | None = None
    if decision.verdict is Verdict.FAIL:
        result = _result(Failure, gate_headline(report), reasons)
    elif decision.verdict is Verdict.INCONCLUSIVE:
        result = _result(Error, gate_headline(report), "\n".join(open_reasons(report)))
    return _case(report, "gate", "verdict", result, said=f"{gate_headline(report)}\n{reasons}")


def _attacks(report: AuditReport) -> Iterator[TestCase]:
    findings = {finding.attack: finding for finding in report.decision.findings}
    for row in attack_rows(report):
        case = _case(report, "attacks", row.outcome.key, _of_attack(report, row, findings.get(row.outcome.key)))
        for name, value in _numbers(row.outcome):
            case.add_property(name, _clean(value))
        yield case
    done = {outcome.key for outcome in report.attacks}
    for spec in report.plan.attacks:
        if spec.key not in done:
            yield _case(report, "attacks", spec.key, _open(report, "no result", "it was planned and has no result"))


def _of_attack(report: AuditReport, row: AttackRow, finding: GateFinding | None) -> FinalResult | None:
    reason = row.reading.reason if row.reading is not None else row.outcome.reason
    if finding is not None:
        if finding.state is FindingState.WAIVED:
            return _result(Skipped, f"waived: {justification(report, finding)}", finding_text(finding))
        if finding.state is FindingState.KNOWN:
            return _result(Skipped, "known in the baseline", finding_text(finding))
        kind = Failure if report.decision.verdict is Verdict.FAIL else Error
        return _result(kind, f"{finding.level}: {finding.message}", finding_text(finding))
    if row.outcome.status is OutcomeStatus.FAILED:
        return _open(report, "crashed", row.outcome.reason)
    if row.outcome.status is OutcomeStatus.INAPPLICABLE:
        return _result(Skipped, f"does not apply: {row.outcome.reason}", "")
    unsettled = row.reading is not None and (row.reading.level is None or row.reading.rule == "E3.1")
    if row.outcome.status is OutcomeStatus.SKIPPED or (unsettled and not row.outcome.is_control):
        return _open(report, row.status, reason)
    return None


def _open(report: AuditReport, what: str, reason: str) -> FinalResult:
    """Something that shows nothing: an error, unless the gate passed without it."""
    kind = Skipped if report.decision.verdict is Verdict.PASS else Error
    return _result(kind, f"{what}: {reason}", reason)


def _checks(report: AuditReport) -> Iterator[TestCase]:
    listed = {code: name for name, codes in _CHECKS.items() for code in codes}
    findings = [item for item in report.findings if not item.code.startswith(_OF_ATTACKS)]
    for name in _CHECKS:
        mine = [item for item in findings if listed.get(item.code, "other") == name]
        problems = [item.message for item in mine if item.severity == "problem"]
        said = "\n".join(f"{item.severity}: {item.message}" for item in mine)
        stands = bool(problems) and report.decision.verdict is not Verdict.PASS
        yield _case(
            report, "checks", name, _result(Error, problems[0], "\n".join(problems)) if stands else None, said=said
        )


def _coverage(report: AuditReport) -> TestCase:
    done, lines = totals(report), unfinished(report)
    text = f"{done.samples_done} of {done.samples_planned} samples"
    return _case(report, "checks", "coverage", _open(report, text, "\n".join(lines)) if lines else None, said=text)


def _numbers(outcome: AttackOutcome) -> Iterator[tuple[str, str]]:
    for metric in ("lift", "both_agree", "control_both", "ceiling_both", "evaluator_top1", "judge_top1"):
        score = outcome.score(metric)
        yield metric, score_text(score)
        if isinstance(score, Measured) and metric == "lift":
            yield "lift_low", f"{score.low:.4f}"
            yield "lift_high", f"{score.high:.4f}"
    coverage = outcome.coverage
    yield "coverage", f"{coverage.frac:.4f}"
    yield "samples", f"{coverage.samples_done}/{coverage.samples_planned}"


def _suite_properties(report: AuditReport) -> Iterator[tuple[str, str]]:
    decision = report.decision
    yield "verdict", str(decision.verdict)
    yield "headline", gate_headline(report)
    yield "evidence_verdict", str(decision.evidence)
    yield "risk_level", str(decision.level or "none")
    yield "findings_failing", str(len(decision.having(FindingState.FAILING)))
    yield "coverage", f"{totals(report).frac:.4f}"
    yield "model_sha256", report.target.digest
    yield "report_id", report.id
    yield "policy_sha256", report.verdict.policy_digest
    for use in decision.waivers:
        yield f"waiver.{use.waiver.id}", waiver_text(use)
    if decision.baseline is not None:
        yield "baseline", "; ".join(baseline_lines(decision.baseline))


def _result(kind: type[FinalResult], message: str, text: str) -> FinalResult:
    result = kind(_clean(message))
    result.text = _clean(text)
    return result


def _clean(text: str) -> str:
    """Without what XML 1.0 cannot hold."""
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
