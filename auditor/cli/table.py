"""The report for a terminal: plain aligned text, verdict last, so that it is what stays on the screen."""

from __future__ import annotations

import typer

from auditor.contracts.outcome import AttackOutcome
from auditor.contracts.report import AuditReport
from auditor.contracts.scores import Measured, Score
from auditor.report.gate_view import decision_lines, gate_headline, reasons_of


def interval(score: Score, *, percent: bool = True) -> str:
    """`41.0 % [36.2, 45.9]`, or `-` when it was not measured."""
    if not isinstance(score, Measured):
        return "-"
    if percent and score.unit == "frac":
        return f"{100 * score.value:5.1f} % [{100 * score.low:.1f}, {100 * score.high:.1f}]"
    return f"{score.value:6.2f} [{score.low:.2f}, {score.high:.2f}]"


def print_report(report: AuditReport) -> None:
    """Write the table to stdout."""
    target = report.target
    typer.echo(f"{target.name}  {target.format}  {target.architecture}  sha256 {target.digest[:16]}")
    typer.echo(
        f"plan {report.plan.name}, seed {report.plan.seed}; policy {report.policy.label} v{report.policy.version}"
    )
    typer.echo("")
    heads = ("evaluator", "judge", "both agree", "control", "ceiling", "lift R")
    typer.echo(f"{'attack':18} {'level':10} " + " ".join(f"{head:24}" for head in heads).rstrip())
    for outcome in report.attacks:
        _row(outcome)
    for outcome in report.attacks:
        if any(score.metric == "psnr" for score in outcome.scores):
            _fidelity(outcome)
    typer.echo("")
    for finding in report.findings:
        typer.echo(f"{finding.severity:8} {finding.message}")
    typer.echo("")
    verdict = report.verdict
    for reason in reasons_of(report):
        typer.echo(f"  - {reason}")
    for need in verdict.needs:
        typer.echo(f"  needs: {need}")
    for line in decision_lines(report):
        typer.echo(f"  - {line}")
    typer.echo(f"{gate_headline(report)}  {report.target.name}  report {report.id[:12]}")


def _row(outcome: AttackOutcome) -> None:
    if outcome.status != "completed":
        typer.echo(f"{outcome.key:18} {outcome.access:10} {outcome.status}: {outcome.reason}")
        return
    cells = [
        interval(outcome.score(m))
        for m in ("evaluator_top1", "judge_top1", "both_agree", "control_both", "ceiling_both", "lift")
    ]
    moved = "" if outcome.moved or outcome.is_control else "  did not move"
    typer.echo(f"{outcome.key:18} {outcome.access:10} " + " ".join(f"{c:24}" for c in cells).rstrip() + moved)


def _fidelity(outcome: AttackOutcome) -> None:
    """How near an attack on a cut model came to the images behind what it saw, with its two controls."""
    names = (("psnr", "PSNR dB"), ("ssim", "SSIM"), ("perceptual", "perceptual"))
    cells = [
        f"{name} {interval(outcome.score(metric), percent=False).strip()}"
        f" (other image {_value(outcome, f'control_{metric}')}, mean image {_value(outcome, f'mean_image_{metric}')})"
        for metric, name in names
    ]
    typer.echo(f"{outcome.key:18} {'; '.join(cells)}")


def _value(outcome: AttackOutcome, metric: str) -> str:
    score = outcome.score(metric)
    return f"{score.value:.2f}" if isinstance(score, Measured) else "-"
