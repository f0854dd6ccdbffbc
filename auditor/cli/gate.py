"""`auditor gate`: decide again from a stored report, offline and in well under a second."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from auditor.contracts.base import digest_of
from auditor.contracts.policy import Policy, RiskLevel, Verdict
from auditor.contracts.report import AuditReport, RiskVerdict
from auditor.errors import ExitCode, InvalidInput, UnknownName

FORMATS = ("table", "json", "markdown")

EPILOG = (
    "Exit codes: 0 passed · 1 failed · 2 the report or the policy cannot be used · 3 inconclusive. They never depend "
    "on the output format. --exit-zero turns only 1 into 0, --allow-inconclusive only 3 into 0."
)


def register(app: typer.Typer) -> None:
    """Add `gate` to the command line."""
    app.command("gate", epilog=EPILOG)(gate)


def gate(
    report_path: Annotated[Path, typer.Argument(metavar="REPORT", help="The JSON report of an audit.")],
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
    fmt: Annotated[str, typer.Option("-f", "--format", help="table, json or markdown.")] = "table",
) -> None:
    """Decide again, offline, from the evidence in a stored report, and exit with the gate's code."""
    from auditor.report.read import read_audit_report
    from auditor.risk.exit_code import exit_code

    if fmt not in FORMATS:
        raise UnknownName(f"unknown format '{fmt}'. Known: {', '.join(FORMATS)}.", remedy="Choose one of these.")
    report = read_audit_report(report_path)
    policy = _policy(report, policy_path, fail_on)
    decided = redecide(report, policy)
    verdict = _cautious(report, policy, decided)
    code = exit_code(verdict, exit_zero=exit_zero, allow_inconclusive=allow_inconclusive)
    _explain(report, policy, decided, verdict, code)
    sys.stdout.write(_text(report, policy, decided, verdict, code, fmt))
    raise typer.Exit(int(code))


def redecide(report: AuditReport, policy: Policy) -> RiskVerdict:
    """What `policy` makes of the evidence stored in `report`."""
    from auditor.risk.decide import decide

    return decide(
        attacks=report.attacks,
        evaluator=report.evaluator,
        judge=report.judge,
        priors=report.priors,
        overlap=report.overlap,
        plan=report.plan,
        policy=policy,
        weights_published=report.weights_published,
        target=report.target,
    )


def _policy(report: AuditReport, path: Path | None, fail_on: RiskLevel | None) -> Policy:
    from auditor.risk.policy_file import read_policy

    policy = read_policy(path) if path is not None else report.policy
    own, asked = report.policy.thresholds.named_rate, policy.thresholds.named_rate
    if own != asked:
        raise InvalidInput(
            f"{path}: `named_rate` is {asked}, but the classes in this report were named at {own}",
            remedy="Which classes leak for certain is tested during the audit: run it again with this policy.",
        )
    return policy if fail_on is None else policy.model_copy(update={"fail_on": fail_on})


def _same_policy(report: AuditReport, policy: Policy) -> bool:
    return digest_of(policy) == report.verdict.policy_digest


def _cautious(report: AuditReport, policy: Policy, decided: RiskVerdict) -> Verdict:
    """The verdict the exit code follows: under one and the same policy, the worse of the stored and the new one."""
    from auditor.risk.exit_code import worst_verdict

    if not _same_policy(report, policy):
        return decided.verdict
    return worst_verdict([decided.verdict, report.verdict.verdict])


def _explain(report: AuditReport, policy: Policy, decided: RiskVerdict, verdict: Verdict, code: ExitCode) -> None:
    """On stderr: how this decision differs from the stored one, and what the flags changed."""
    stored = report.verdict
    if not _same_policy(report, policy):
        was = f"{stored.verdict}{f' ({stored.level})' if stored.level else ''}"
        typer.echo(f"note: decided by another policy than the report's, whose verdict was {was}", err=True)
    elif (decided.verdict, decided.level) != (stored.verdict, stored.level):
        typer.echo(
            f"warning: the report says {stored.verdict}, its evidence says {decided.verdict} under the same policy "
            f"(another version of the auditor, or an edited report); the gate follows {verdict}",
            err=True,
        )
    for line in policy.loosened():
        typer.echo(f"note: the policy is looser than the built-in one: {line}", err=True)
    if code is ExitCode.OK and verdict is not Verdict.PASS:
        flag = "--exit-zero" if verdict is Verdict.FAIL else "--allow-inconclusive"
        typer.echo(f"note: the verdict is {verdict}; the exit code is 0 because of {flag}", err=True)


def _text(report: AuditReport, policy: Policy, decided: RiskVerdict, verdict: Verdict, code: ExitCode, fmt: str) -> str:
    if fmt == "json":
        return _json(report, policy, decided, verdict, code)
    if fmt == "markdown":
        from auditor.report.formats import render

        return render(report.model_copy(update={"policy": policy, "verdict": decided}), "markdown")
    return _table(report, decided, verdict)


def _json(report: AuditReport, policy: Policy, decided: RiskVerdict, verdict: Verdict, code: ExitCode) -> str:
    answer = {
        "verdict": verdict,
        "exit_code": int(code),
        "report_id": report.id,
        "model": {"name": report.target.name, "digest": report.target.digest},
        "policy": {"name": policy.name, "version": policy.version, "digest": digest_of(policy)},
        "decision": decided.model_dump(mode="json"),
        "stored": {"verdict": report.verdict.verdict, "level": report.verdict.level},
    }
    return json.dumps(answer, indent=2, ensure_ascii=False) + "\n"


def _table(report: AuditReport, decided: RiskVerdict, verdict: Verdict) -> str:
    from auditor.report.view import attack_rows, totals
    from auditor.report.wording import headline, percent

    rows = attack_rows(report.model_copy(update={"verdict": decided}))
    cells: list[tuple[str, ...]] = [("attack", "access", "reading", "both agree", "control", "ceiling", "lift R")]
    cells += [(row.outcome.key, row.outcome.access, row.status, *row.cells[:4]) for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    lines += ["", *(f"  - {reason}" for reason in decided.reasons)]
    lines += [f"  needs: {need}" for need in decided.needs]
    done = totals(report)
    head = headline(decided) if decided.verdict is verdict else str(verdict).upper()
    coverage = f"coverage {percent(done.frac)} ({done.attacks_done}/{done.attacks_planned} attacks)"
    lines.append(f"{head}  {report.target.name}  {coverage}  report {report.id[:12]}")
    return "\n".join(lines) + "\n"
