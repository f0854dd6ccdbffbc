"""The words and number formats that every rendering shares, so that no format says more than another."""

from __future__ import annotations

from dataclasses import dataclass

from auditor.contracts.policy import RiskLevel, Verdict
from auditor.contracts.report import AuditReport, RiskVerdict
from auditor.contracts.scores import Measured, Score

VERDICT_WORD = {Verdict.PASS: "Pass", Verdict.FAIL: "Fail", Verdict.INCONCLUSIVE: "Inconclusive"}
VERDICT_SIGN = {Verdict.PASS: "✓", Verdict.FAIL: "✕", Verdict.INCONCLUSIVE: "?"}

LEVEL_MEANING = {
    RiskLevel.LOW: "no lift over chance beyond what this audit can resolve, in the worst classes too",
    RiskLevel.MEDIUM: "a large leak is excluded; a small one is not",
    RiskLevel.HIGH: "recognisable private content was rebuilt, or particular classes leak for certain",
    RiskLevel.CRITICAL: "most of what this attacker could draw was rebuilt, or many classes leak for certain",
}

PASS_CAVEAT = "This says nothing about stronger attackers, other priors or larger budgets."  # noqa: S105
NOT_LEGAL_ADVICE = "The references are information for a reviewer, not legal advice."


@dataclass(frozen=True, slots=True)
class Reference:
    """A published identifier that a reviewer may cite."""

    identifier: str
    title: str
    note: str


REFERENCES: tuple[Reference, ...] = (
    Reference(
        "MITRE ATLAS AML.T0024.001",
        "Invert AI Model",
        "The technique, written about inference interfaces; white-box attacks add AML.T0044, Full AI Model Access.",
    ),
    Reference("OWASP ML03:2023", "Model Inversion Attack", "OWASP Machine Learning Security Top Ten, 2023."),
    Reference(
        "NIST AI 100-2 E2025, NISTAML.032",
        "Data Reconstruction",
        "Adversarial Machine Learning: A Taxonomy and Terminology of Attacks and Mitigations; covers model inversion.",
    ),
)

GLOSSARY: tuple[tuple[str, str], ...] = (
    ("Lift R", "(both-agree rate - control) / (ceiling - control): the share of what this attacker could have drawn."),
    ("Both agree", "share of reconstructions that evaluator and judge both recognise as the attacked class."),
    ("Control", "the same rate for prior samples made without looking at the model: what chance looks like."),
    ("Ceiling", "the same rate for real private images projected into the prior: the best this attacker could do."),
    ("Evaluator", "a classifier of the private classes, independent of the model under audit."),
    ("Judge", "an embedder that never saw the private classes; it identifies a picture by the nearest class centre."),
    (
        "Intervals",
        "95 %, bootstrapped over classes. A leak is proven by lower bounds and excluded by upper bounds only.",
    ),
)


def percent(value: float) -> str:
    """A share as a percentage with one decimal."""
    return f"{100 * value:.1f}%"


def quantity(value: float, unit: str) -> str:
    """A number in its unit: `frac` as a percentage, everything else with two decimals."""
    return percent(value) if unit == "frac" else f"{value:.2f}"


def score_text(score: Score) -> str:
    """`41.0% [36.2, 45.9]`, `0.38 [0.31, 0.46]` or `not measured`."""
    if not isinstance(score, Measured):
        return "not measured"
    scale, digits = (100.0, 1) if score.unit == "frac" else (1.0, 2)
    bounds = f"[{scale * score.low:.{digits}f}, {scale * score.high:.{digits}f}]"
    return f"{quantity(score.value, score.unit)} {bounds}"


def headline(verdict: RiskVerdict) -> str:
    """`FAIL · high`."""
    word = VERDICT_WORD[verdict.verdict].upper()
    return f"{word} · {verdict.level}" if verdict.level else word


def meaning(report: AuditReport) -> str:
    """What the verdict means, in one sentence."""
    verdict = report.verdict
    if report.decision.evidence is not verdict.verdict:
        return "The stored verdict is worse than what its evidence gives by today's rules, and keeps its force."
    looser = ", which is looser than the built-in one," if report.policy.loosened() else ""
    told = f"The evidence puts this model at {verdict.level}, and this policy{looser} fails on {report.policy.fail_on}."
    if verdict.verdict is Verdict.PASS:
        is_low = verdict.level in (None, RiskLevel.LOW)
        return report.policy.pass_sentence if is_low else told
    if verdict.verdict is Verdict.INCONCLUSIVE:
        return "The evidence neither proves a leak nor excludes one: do not read this as a pass."
    lifts = [outcome.score("lift") for outcome in report.attacks if not outcome.is_control]
    lowest = max((score.low for score in lifts if isinstance(score, Measured)), default=0.0)
    if lowest >= report.policy.thresholds.clear_lift:
        return (
            "This suite rebuilt recognisable private content: at least "
            f"{lowest:.0%} of what this attacker could have drawn."
        )
    named = {label for outcome in report.attacks if not outcome.is_control for label in outcome.named_classes}
    if named:
        return f"This suite rebuilt recognisable private content of {len(named)} classes for certain."
    return told


def level_meaning(report: AuditReport) -> str:
    """What its level means; empty where it has none, or one that today's rules do not give."""
    verdict = report.verdict
    if verdict.level is None or report.decision.evidence is not verdict.verdict:
        return ""
    if report.policy.loosens_levels:
        return "what this policy, which is looser than the built-in one, calls so"
    return LEVEL_MEANING[verdict.level]


def thousands(value: int) -> str:
    """An integer with thin grouping: `1 240 000`."""
    return f"{value:,}".replace(",", "\u202f")


def duration(seconds: float) -> str:
    """`45 s`, `6 min 10 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(n_bytes: int) -> str:
    """Bytes as `2.3 GB`, `12 MB`."""
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.0f} MB"
