"""A report as a list of issues: what SARIF and GitLab's code quality show, with rules and fingerprints that stay."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from auditor.contracts.gate import FindingState, GateFinding
from auditor.contracts.policy import RiskLevel
from auditor.contracts.report import AttackLevel, AuditReport
from auditor.contracts.waiver import WaiverState
from auditor.report.display import Display
from auditor.report.gate_view import exposed_text, finding_text, justification, open_reasons, unfinished, waiver_text
from auditor.report.wording import VERDICT_WORD, score_text


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of issue. Its id never changes its meaning."""

    id: str
    name: str
    title: str
    text: str
    help: str
    severity: RiskLevel
    """Where no issue of this run says otherwise."""


LEAK = Rule(
    "PMI001",
    "ModelInversionLeak",
    "Private training content can be rebuilt from the model",
    "An attack rebuilt recognisable private content: the lift over chance is proven by its lower bound, or cannot be "
    "excluded by its upper one.",
    "Repair the model (`auditor remediate`), restrict what its service gives away, or waive the finding with a reason "
    "and an expiry (`auditor waive`). The level comes from the interval of the lift R under the policy's thresholds.",
    RiskLevel.HIGH,
)
NAMED = Rule(
    "PMI002",
    "ClassLeaksForCertain",
    "Particular classes of private data leak for certain",
    "Single classes were rebuilt more often than chance and the policy's rate allow, corrected for the number of "
    "classes.",
    "Look at the named classes in the report, consider removing or re-collecting their images, and repair the model.",
    RiskLevel.HIGH,
)
ROSE = Rule(
    "PMI003",
    "LeakRose",
    "An attack finds more than in the baseline",
    "The rates are paired by class with those of the baseline, and rose beyond interval noise.",
    "It fails the gate only where the policy fails the attack too. Look at what changed since the baseline.",
    RiskLevel.MEDIUM,
)
EXPOSED = Rule(
    "PMI004",
    "ClassExposedMore",
    "Particular classes are exposed more than in the baseline",
    "Single classes are found more often than in the baseline, all attacks together, beyond what another run of the "
    "same audit would change and corrected for the number of classes; the mean over classes need not have risen.",
    "It fails the gate only where the policy fails an attack too. Look at what changed in the images of these classes.",
    RiskLevel.MEDIUM,
)
VALIDITY = Rule(
    "PMI030",
    "AuditValidity",
    "Something limits what this audit can show",
    "A warning about the model file, the data, the judges or the priors behind the numbers.",
    "Read the validity section of the report: what it says can keep a verdict from meaning what it seems to.",
    RiskLevel.LOW,
)
EXPIRED = Rule(
    "PMI031",
    "WaiverExpired",
    "A waiver has expired",
    "The finding that it covered counts again.",
    "Repair the model, or have somebody answer for the finding anew (`auditor waive`).",
    RiskLevel.LOW,
)
INCOMPLETE = Rule(
    "PMI900",
    "AuditIncomplete",
    "The audit settles nothing",
    "The evidence neither proves a leak nor excludes one, the run did not end, or a stored verdict stands that today's "
    "rules do not give. This is not a pass.",
    "The report lists what would settle it: more classes, better public data, a judge, an adaptive attack, a run that "
    "ends, or a new audit.",
    RiskLevel.HIGH,
)
RULES = (LEAK, NAMED, ROSE, EXPOSED, VALIDITY, EXPIRED, INCOMPLETE)
"""Every rule, in every run, so that what is repaired is seen to be gone."""

_FINDING_LEVEL = {"problem": RiskLevel.MEDIUM, "warning": RiskLevel.LOW}
_LONGEST = 1000


@dataclass(frozen=True, slots=True)
class Issue:
    """One result: of a rule and an attack, a group of classes, or the run. Never of one picture."""

    rule: Rule
    subject: str
    level: RiskLevel
    message: str
    fingerprint: str
    finding: GateFinding | None = None
    justification: str = ""
    """Why it is waived; empty: it is not."""

    @property
    def waived(self) -> bool:
        """Whether a waiver covers it."""
        return self.finding is not None and self.finding.state is FindingState.WAIVED

    @property
    def fails(self) -> bool:
        """Whether it counts against the gate: neither waived nor known."""
        return self.finding is not None and self.finding.state is FindingState.FAILING

    @property
    def severity(self) -> RiskLevel:
        """Its level, but never less than high where it fails the gate: who blocks on severity blocks what fails."""
        return max(self.level, RiskLevel.HIGH, key=lambda level: level.rank) if self.fails else self.level


def issues_of(report: AuditReport, display: Display) -> tuple[Issue, ...]:
    """Every issue from the display's severity up; what fails, is inconclusive or expired is always among them."""
    found = (*_leaks(report), *_rises(report), *_validity(report))
    shown = tuple(issue for issue in found if issue.fails or issue.level.rank >= display.min_severity.rank)
    return (*shown, *_expired(report), *_incomplete(report))


def fingerprint(rule: str, model: str, subject: str) -> str:
    """The same for the same rule, model name and subject, however numbers, messages and model files change."""
    return hashlib.sha256("\0".join((rule, model, subject)).encode()).hexdigest()


def _leaks(report: AuditReport) -> Iterator[Issue]:
    findings = {finding.attack: finding for finding in report.decision.findings}
    outcomes = {outcome.key: outcome for outcome in report.attacks}
    for read in report.verdict.attacks:
        finding = findings.get(read.key)
        if finding is None and (read.level is None or read.level.rank < RiskLevel.MEDIUM.rank):
            continue
        level = finding.level if finding is not None else read.level
        assert level is not None  # noqa: S101
        why = justification(report, finding) if finding is not None else ""
        yield _issue(report, LEAK, read.key, level, _leak_text(report, read, finding), finding, why)
        classes = outcomes[read.key].named_classes_by_name if read.key in outcomes else ()
        if classes:
            text = f"{len(classes)} classes leak for certain under {read.key}: {', '.join(classes[:20])}"
            yield _issue(report, NAMED, read.key, level, text, finding, why)


def _leak_text(report: AuditReport, read: AttackLevel, finding: GateFinding | None) -> str:
    (outcome,) = [outcome for outcome in report.attacks if outcome.key == read.key]
    said = finding_text(finding) if finding is not None else f"lets through: {read.key} ({read.level}): {read.reason}"
    return f"{said}. Lift R {score_text(outcome.score('lift'))}, both agree {score_text(outcome.score('both_agree'))}."


def _validity(report: AuditReport) -> Iterator[Issue]:
    seen: dict[str, int] = {}
    for item in report.findings:
        if item.severity in _FINDING_LEVEL:
            nth = seen[item.code] = seen.get(item.code, 0) + 1
            subject = item.code if nth == 1 else f"{item.code}#{nth}"
            yield _issue(report, VALIDITY, subject, _FINDING_LEVEL[item.severity], item.message)


def _rises(report: AuditReport) -> Iterator[Issue]:
    baseline = report.decision.baseline
    if baseline is None:
        return
    for key in baseline.rises:
        text = f"{key} finds more than in the baseline (report {baseline.report_id[:12]}), beyond interval noise"
        yield _issue(report, ROSE, key, RiskLevel.MEDIUM, text)
    if baseline.exposed:
        text = f"{len(baseline.exposed)} classes are exposed more than in the baseline: {exposed_text(baseline)}"
        yield _issue(report, EXPOSED, "classes", RiskLevel.MEDIUM, text)


def _expired(report: AuditReport) -> Iterator[Issue]:
    for use in report.decision.waivers_in(WaiverState.EXPIRED):
        yield _issue(report, EXPIRED, use.waiver.id, RiskLevel.LOW, f"Waiver {waiver_text(use)}")


def _incomplete(report: AuditReport) -> Iterator[Issue]:
    reasons = open_reasons(report)
    if reasons:
        text = f"{VERDICT_WORD[report.decision.verdict]}: {'; '.join(reasons)}"
        yield _issue(report, INCOMPLETE, "verdict", INCOMPLETE.severity, text)
    elif unfinished(report):
        yield _issue(report, INCOMPLETE, "run", RiskLevel.MEDIUM, f"Incomplete: {'; '.join(unfinished(report))}")


def _issue(
    report: AuditReport,
    rule: Rule,
    subject: str,
    level: RiskLevel,
    message: str,
    finding: GateFinding | None = None,
    why: str = "",
) -> Issue:
    text = message if len(message) <= _LONGEST else f"{message[: _LONGEST - 1]}…"
    return Issue(rule, subject, level, text, fingerprint(rule.id, report.target.name, subject), finding, why)
