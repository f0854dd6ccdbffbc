"""The audit report as Markdown, for a CI job summary or a pull request. Pictures are never part of it."""

from __future__ import annotations

from auditor.contracts.cards import ClassifierCard, JudgeCard
from auditor.contracts.fisher import FisherReport
from auditor.contracts.policy import Verdict
from auditor.contracts.report import AuditReport
from auditor.report.fisher_view import definitions_text, fisher_tables, followed_text, gap_text
from auditor.report.gate_view import decision_lines, gate_headline, gate_meaning, gate_sign, reasons_of
from auditor.report.markdown import bullets, folded, plain, table
from auditor.report.view import (
    FIDELITY_COLUMNS,
    RATE_COLUMNS,
    attack_rows,
    fidelity_rows,
    leading_attack,
    totals,
    worst_first,
)
from auditor.report.wording import (
    NOT_LEGAL_ADVICE,
    PASS_CAVEAT,
    REFERENCES,
    meaning,
    percent,
    score_text,
)

_WORST_CLASSES = 10


def render_markdown(report: AuditReport) -> str:
    """Verdict first, then reasons, attacks, validity; the long tables are folded."""
    sections = (_verdict(report), _attacks(report), _classes(report), _validity(report), _layers(report), _end(report))
    return "\n".join(line for section in sections for line in (*section, "")).rstrip() + "\n"


def _verdict(report: AuditReport) -> list[str]:
    verdict, policy, done = report.verdict, report.policy, totals(report)
    lines = [
        f"## {gate_sign(report)} {gate_headline(report)}: {plain(report.target.name)}",
        "",
        f"**{plain(meaning(report))}**" + (f" {PASS_CAVEAT}" if report.decision.evidence is Verdict.PASS else ""),
        "",
        f"Coverage {percent(done.frac)}: {done.attacks_done} of {done.attacks_planned} attacks, {done.classes_done} of "
        f"{done.classes_planned} classes, {done.samples_done} of {done.samples_planned} samples. "
        f"Policy {plain(policy.label)} {plain(policy.version)} fails on {policy.fail_on} and above.",
        "",
        *bullets(reasons_of(report)),
    ]
    if verdict.needs:
        lines += ["", "**What would settle it**", "", *bullets(verdict.needs)]
    decided = decision_lines(report)
    if decided:
        sentence = [plain(gate_meaning(report)), ""] if gate_meaning(report) else []
        lines += ["", "**Waivers and baseline**", "", *sentence, *bullets(decided)]
    return lines


def _attacks(report: AuditReport) -> list[str]:
    rows = [(row.outcome.key, row.outcome.access, row.status, *row.cells) for row in attack_rows(report)]
    head = ("Attack", "Access", "Reading", *(name for _, name in RATE_COLUMNS))
    return ["### Attacks", "", *table(head, rows, numeric_from=3), *_fidelity(report)]


def _fidelity(report: AuditReport) -> list[str]:
    """The table of attacks on a cut model; nothing where there is none."""
    rows = fidelity_rows(report)
    if not rows or report.target.split is None:
        return []
    head = ("Attack", *(name for _, name in FIDELITY_COLUMNS))
    text = f"What passes at {plain(report.target.split.layer)}: how near the pictures come to the images behind them."
    return ["", text, "", *table(head, rows)]


def _classes(report: AuditReport) -> list[str]:
    leading = leading_attack(report)
    if leading is None:
        return []
    rows = [
        (
            row.name + (" (leaks for certain)" if row.label in leading.named_classes else ""),
            percent(row.both),
            percent(row.control_both),
            percent(row.ceiling_both) if row.ceiling_both is not None else "none",
            percent(row.judge_top1),
            percent(row.evaluator_top1),
        )
        for row in worst_first(leading.per_class)[:_WORST_CLASSES]
    ]
    head = ("Class", "Both agree", "Control", "Ceiling", "Judge", "Evaluator")
    return folded(f"The {len(rows)} classes that leak most, under {plain(leading.key)}", table(head, rows))


def _validity(report: AuditReport) -> list[str]:
    lines = ["### Validity", ""]
    if isinstance(report.evaluator, ClassifierCard):
        card = report.evaluator
        text = f"Evaluator {card.architecture}: {score_text(card.heldout_accuracy)} of held-out private images"
        lines += bullets([f"{text}; the target itself: {score_text(card.target_heldout_accuracy)}"])
    else:
        lines += bullets([f"No evaluator: {report.evaluator.reason}"])
    if isinstance(report.judge, JudgeCard):
        lines += bullets([f"Judge ({report.judge.source}): identifies {score_text(report.judge.heldout_top1)}"])
    else:
        lines += bullets([f"No judge: {report.judge.reason}"])
    lines += bullets(f"Prior {card.name}: ceiling {score_text(card.ceiling_both)}" for card in report.priors)
    lines += bullets(f"{finding.severity}: {finding.message}" for finding in report.findings)
    return [*lines, "", *folded("What this audit cannot show", bullets(report.limitations))]


def _layers(report: AuditReport) -> list[str]:
    fisher = report.fisher
    if not isinstance(fisher, FisherReport):
        return ["### Layers", "", plain(f"No Fisher layer scores: {fisher.reason}")]
    found = f"freeze the first {fisher.boundary} units" if fisher.boundary is not None else "no boundary stands out"
    gap = gap_text(fisher.gap, fisher.gap_low, fisher.gap_high)
    lines = [f"Followed: {plain(followed_text(fisher))}. Gap {gap}. {plain(definitions_text(fisher))}", ""]
    for item in fisher_tables(fisher):
        lines += [f"**{plain(item.title)}**", "", *table(item.head, item.rows, numeric_from=item.numeric_from), ""]
    lines += bullets(fisher.notes)
    return folded(f"Fisher layer scores ({fisher.verdict}: {found})", lines)


def _end(report: AuditReport) -> list[str]:
    made = report.provenance
    rows = [
        ("Report", report.id),
        ("Model file", report.target.digest),
        ("Plan", made.plan_digest),
        ("Policy", report.verdict.policy_digest),
        ("Data", made.data_digest),
        ("Code", made.code_digest),
    ]
    cited = "; ".join(f"{reference.identifier} ({reference.title})" for reference in REFERENCES)
    return [
        *folded("Provenance", table(("What", "sha256"), rows, numeric_from=2)),
        "",
        f"<sub>{plain(report.verdict.vector)} · {plain(cited)}. {NOT_LEGAL_ADVICE}</sub>",
    ]
