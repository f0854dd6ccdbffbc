"""How a job that ended is told: its report on stdout, the files asked for, and the exit code, which comes first."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from auditor.cli.gating import Gating, gated
from auditor.cli.report import write_outputs
from auditor.cli.step_summary import append_step_summary
from auditor.errors import ExitCode, InvalidInput, NotFound
from auditor.report.display import Display

if TYPE_CHECKING:
    from auditor.cli.options import House
    from auditor.contracts.jobs import JobView


@dataclass(frozen=True, slots=True)
class Telling:
    """What is printed and written; none of it has a say in the exit code.

    Attributes:
        outputs: (format, file) pairs.
        fmt: what stdout shows.
        display: how machine formats show findings.
        step_summary: append to the summary of a GitHub Actions step.
    """

    outputs: Sequence[tuple[str, Path]] = ()
    fmt: str = "table"
    display: Display = field(default_factory=Display)
    step_summary: bool = True


def conclude(house: House, view: JobView, telling: Telling, gating: Gating | None = None) -> ExitCode:
    """Print the report of a job that ended, write the files asked for, and return the exit code of its verdict."""
    from auditor.contracts.jobs import JobKind, JobState

    if view.state is JobState.CANCELLED:
        typer.echo(f"job {view.id[:12]} was cancelled; `auditor submit --resume {view.id[:12]}` goes on", err=True)
        return ExitCode.INTERRUPTED
    if view.state is not JobState.DONE or not view.report_ids:
        return _failed(view)
    if view.kind is JobKind.REPAIR:
        from auditor.cli.repair import show_repair

        if gating is not None and gating.given:
            raise InvalidInput(
                "--waivers and --baseline are for audits; this job is a repair",
                remedy="Give them to `auditor gate` with the report of the audit after the repair.",
            )
        return show_repair(house, view.id, telling)
    return _audited(house, view, telling, gating or Gating())


def _failed(view: JobView) -> ExitCode:
    problems = view.error.problems if view.error else ("it left no report",)
    typer.echo(f"error: job {view.id[:12]} failed:", err=True)
    for problem in problems:
        typer.echo(f"  - {problem}", err=True)
    if view.error and view.error.remedy:
        typer.echo(view.error.remedy, err=True)
    return ExitCode.INCONCLUSIVE if view.error and view.error.code == "unsupported_model" else ExitCode.ERROR


def _audited(house: House, view: JobView, telling: Telling, gating: Gating) -> ExitCode:
    from auditor.report.formats import render
    from auditor.risk.exit_code import exit_code

    stored = house.audits.get_report(view.id)
    try:
        report = gated(stored, gating.looked_up(house, stored.target.name))
    except (InvalidInput, NotFound):
        typer.echo(f"the audit itself is done and stored: report {stored.id[:12]}", err=True)
        raise
    code = exit_code(report.decision.verdict)
    if telling.fmt == "table":
        from auditor.cli.table import print_report

        print_report(report)
    else:
        sys.stdout.write(render(report, telling.fmt, stored=stored))

    def text(kind: str) -> str:
        gallery = house.audits.get_gallery(view.id) if kind == "html" else None
        return render(report, kind, gallery, telling.display, stored=stored)

    append_step_summary(report, wanted=telling.step_summary)
    return write_outputs(telling.outputs, text, code)
