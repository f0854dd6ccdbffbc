"""The verdict as Markdown in the summary of a GitHub Actions step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from auditor.contracts.repair import RepairReport
    from auditor.contracts.report import AuditReport


def append_step_summary(report: AuditReport | RepairReport, *, wanted: bool) -> None:
    """Append the report to `$GITHUB_STEP_SUMMARY`, where that is set; a summary that fails changes no exit code."""
    from auditor.cli.options import read_settings
    from auditor.report.formats import render

    path = read_settings().github_step_summary if wanted else None
    if path is None:
        return
    text = render(report, "markdown")
    try:
        with path.open("a", encoding="utf-8") as stream:
            stream.write(text + "\n")
    except OSError as error:
        typer.echo(f"warning: the step summary {path} could not be written: {error}", err=True)
