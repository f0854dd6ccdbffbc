"""`auditor gate`: decide again from a stored report, offline and in well under a second."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from auditor.cli.gating import gated, policy_of, read_gating, read_or_find
from auditor.cli.options import (
    AnchorOption,
    BaselineOption,
    MinSeverityOption,
    OutputOption,
    SummaryOption,
    WaiversOption,
    display_of,
    parse_outputs,
    services,
)
from auditor.cli.report import write_outputs
from auditor.cli.step_summary import append_step_summary
from auditor.contracts.base import digest_of
from auditor.contracts.policy import Policy, RiskLevel, Verdict
from auditor.contracts.report import AuditReport
from auditor.errors import ExitCode, InvalidInput, UnknownName

if TYPE_CHECKING:
    from auditor.report.display import Display

FORMATS = ("table", "json", "markdown", "sarif", "junit", "gitlab")

EPILOG = (
    "Exit codes: 0 passed · 1 failed · 2 the report or the policy cannot be used · 3 inconclusive. They never depend "
    "on the output format. --exit-zero turns only 1 into 0, --allow-inconclusive only 3 into 0. Waivers and a baseline "
    "turn 1 into 0 where they cover everything that fails and the rest is complete."
)


def register(app: typer.Typer) -> None:
    """Add `gate` to the command line."""
    app.command("gate", epilog=EPILOG)(gate)


def gate(
    reference: Annotated[
        str, typer.Argument(metavar="REPORT", help="The JSON report of an audit, or the id of a stored one.")
    ],
    policy_path: Annotated[
        Path | None, typer.Option("--policy", metavar="FILE", help="Policy to decide by; default: the report's own.")
    ] = None,
    fail_on: Annotated[
        RiskLevel | None, typer.Option("--fail-on", help="Fail at this level and above, instead of the policy's.")
    ] = None,
    exit_zero: Annotated[bool, typer.Option("--exit-zero", help="Exit with 0 when the gate fails.")] = False,
    allow_inconclusive: Annotated[
        bool, typer.Option("--allow-inconclusive", help="Exit with 0 when the verdict is inconclusive.")
    ] = False,
    fmt: Annotated[
        str, typer.Option("-f", "--format", help="table, json, markdown, sarif, junit or gitlab.")
    ] = "table",
    output: OutputOption = None,
    waivers: WaiversOption = None,
    baseline: BaselineOption = None,
    min_severity: MinSeverityOption = RiskLevel.LOW,
    anchor: AnchorOption = None,
    step_summary: SummaryOption = True,
) -> None:
    """Decide again from the evidence in a report, offline where that is a file, and exit with the gate's code."""
    from auditor.report.formats import render
    from auditor.risk.exit_code import exit_code

    if fmt not in FORMATS:
        raise UnknownName(f"unknown format '{fmt}'. Known: {', '.join(FORMATS)}.", remedy="Choose one of these.")
    outputs, display = parse_outputs(output or []), display_of(anchor, min_severity)
    gating = read_gating(waivers, baseline)
    report = read_or_find(reference, full=True)
    base = policy_of(report, reference) if policy_path is None and fail_on is None else report.policy
    policy = _policy(base, policy_path, fail_on)
    if gating.wants_approved:
        gating = gating.looked_up(services(), report.target.name)
    decided = gated(report, gating, policy)
    code = exit_code(decided.decision.verdict, exit_zero=exit_zero, allow_inconclusive=allow_inconclusive)
    _explain(report, decided, code)
    sys.stdout.write(_text(report, decided, code, fmt, display))
    append_step_summary(decided, wanted=step_summary)
    code = write_outputs(outputs, lambda kind: render(decided, kind, display=display, stored=report), code)
    raise typer.Exit(int(code))


def _policy(base: Policy, path: Path | None, fail_on: RiskLevel | None) -> Policy:
    from auditor.risk.policy_file import read_policy

    policy = read_policy(path) if path is not None else base
    own, asked = base.thresholds.named_rate, policy.thresholds.named_rate
    if own != asked:
        raise InvalidInput(
            f"{path}: `named_rate` is {asked}, but the classes in this report were named at {own}",
            remedy="Which classes leak for certain is tested during the audit: run it again with this policy.",
        )
    return policy if fail_on is None else policy.failing_on(fail_on)


def _explain(report: AuditReport, decided: AuditReport, code: ExitCode) -> None:
    """On stderr: how this decision differs from the stored one, and what the flags changed."""
    from auditor.risk.gate import same_policy

    stored, fresh, verdict = report.verdict, decided.verdict, decided.decision.verdict
    if not same_policy(report, decided.policy):
        was = f"{stored.verdict}{f' ({stored.level})' if stored.level else ''}"
        typer.echo(f"note: decided by another policy than the report's, whose verdict was {was}", err=True)
    elif (fresh.verdict, fresh.level) != (stored.verdict, stored.level):
        typer.echo(
            f"warning: the report says {stored.verdict}, its evidence says {fresh.verdict} under the same policy "
            f"(another version of the auditor, or an edited report); the gate follows {decided.decision.evidence}",
            err=True,
        )
    for line in decided.policy.loosened():
        typer.echo(f"note: the policy is looser than the built-in one: {line}", err=True)
    if code is ExitCode.OK and verdict is not Verdict.PASS:
        flag = "--exit-zero" if verdict is Verdict.FAIL else "--allow-inconclusive"
        typer.echo(f"note: the verdict is {verdict}; the exit code is 0 because of {flag}", err=True)


def _text(report: AuditReport, decided: AuditReport, code: ExitCode, fmt: str, display: Display) -> str:
    if fmt == "json":
        return _json(report, decided, code)
    if fmt == "table":
        return _table(decided)
    from auditor.report.formats import render

    return render(decided, fmt, display=display)


def _json(report: AuditReport, decided: AuditReport, code: ExitCode) -> str:
    policy = decided.policy
    answer = {
        "verdict": decided.decision.verdict,
        "exit_code": int(code),
        "report_id": report.id,
        "model": {"name": report.target.name, "digest": report.target.digest},
        "policy": {
            "name": policy.label,
            "version": policy.version,
            "digest": digest_of(policy),
            "looser": list(policy.loosened()),
        },
        "decision": decided.verdict.model_dump(mode="json"),
        "stored": {"verdict": report.verdict.verdict, "level": report.verdict.level},
        "gate": decided.decision.model_dump(mode="json"),
    }
    return json.dumps(answer, indent=2, ensure_ascii=False) + "\n"


def _table(decided: AuditReport) -> str:
    from auditor.report.gate_view import decision_lines, gate_headline, reasons_of
    from auditor.report.view import attack_rows, totals
    from auditor.report.wording import percent

    cells: list[tuple[str, ...]] = [("attack", "access", "reading", "both agree", "control", "ceiling", "lift R")]
    cells += [(row.outcome.key, row.outcome.access, row.status, *row.cells[:4]) for row in attack_rows(decided)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    lines += ["", *(f"  - {reason}" for reason in reasons_of(decided))]
    lines += [f"  needs: {need}" for need in decided.verdict.needs]
    lines += [f"  - {line}" for line in decision_lines(decided)]
    done = totals(decided)
    coverage = f"coverage {percent(done.frac)} ({done.attacks_done}/{done.attacks_planned} attacks)"
    lines.append(f"{gate_headline(decided)}  {decided.target.name}  {coverage}  report {decided.id[:12]}")
    return "\n".join(lines) + "\n"
