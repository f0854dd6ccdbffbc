"""`status`, `list`, `cancel`, `report`: what is stored, and where a job is."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from auditor.cli.gating import gated, read_gating, tell_trial
from auditor.cli.options import AnchorOption, BaselineOption, MinSeverityOption, WaiversOption, display_of, services
from auditor.cli.report import format_by_name, write_whole
from auditor.contracts.jobs import JobState, JobView
from auditor.contracts.policy import RiskLevel
from auditor.errors import InvalidInput

if TYPE_CHECKING:
    from auditor.contracts.repair import RepairReport
    from auditor.contracts.report import AuditReport


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("status")(status)
    app.command("list")(list_jobs)
    app.command("cancel")(cancel)
    app.command("report")(show_report)


def status(
    job: Annotated[str, typer.Argument(help="Job id, or its first characters.")],
    fmt: Annotated[str, typer.Option("-f", "--format", help="table or json.")] = "table",
) -> None:
    """Where a job is, unit by unit. A job that is not done shows no score."""
    _check_format(fmt)
    view = services().jobs.status(job)
    if fmt == "json":
        typer.echo(view.model_dump_json(indent=2))
        return
    typer.echo(f"{view.id}  {view.kind}  {view.name}  {view.state}{_place(view)}")
    for unit in view.units:
        state = "stalled" if unit.stalled else str(unit.state)
        seconds = "" if unit.seconds is None else f"{unit.seconds:8.1f}s"
        progress = "" if unit.progress is None else f"{unit.progress.stage} {unit.progress.done}/{unit.progress.total}"
        typer.echo(f"  {state:8} {unit.key:28} {seconds} {progress}")
        if unit.error is not None:
            typer.echo(f"           {unit.error.code}: {'; '.join(unit.error.problems)}")
    for report in view.report_ids:
        typer.echo(f"  report {report}")


def _place(view: JobView) -> str:
    """Where a job that waits stands, and why one that has begun does not go on."""
    if view.stalled:
        return "  its worker has not been heard of"
    if view.queue_position is None:
        return ""
    eta = "" if view.eta_s is None else f", in about {view.eta_s:.0f} s"
    return f"  number {view.queue_position} in the queue{eta}"


def list_jobs(
    limit: Annotated[int, typer.Option("-n", min=1, help="How many, newest first.")] = 20,
    fmt: Annotated[str, typer.Option("-f", "--format", help="table or json.")] = "table",
) -> None:
    """The newest jobs with their verdicts."""
    _check_format(fmt)
    house = services()
    newest = {entry.job_id: entry for entry in reversed(house.audits.list_reports(limit)) if entry.is_of_job}
    rows = []
    for view in house.jobs.list(limit):
        is_done = view.state is JobState.DONE and view.report_ids
        entry = newest.get(view.id) or house.audits.find_report(view.id) if is_done else None
        rows.append(
            {
                "id": view.id,
                "kind": str(view.kind),
                "name": view.name,
                "state": str(view.state),
                "created_at": view.created_at,
                "verdict": entry.verdict if entry else None,
                "level": entry.level if entry else None,
                "looser_policy": entry.looser_policy if entry else None,
            }
        )
    if fmt == "json":
        typer.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        typer.echo(
            f"{str(row['id'])[:12]}  {row['kind']:6} {row['state']:9} {row['verdict'] or '-':12} "
            f"{row['level'] or '-':8} {row['created_at']}  {row['name']}"
            f"{'  (by a policy looser than the built-in one)' if row['looser_policy'] else ''}"
        )


def _check_format(fmt: str) -> None:
    if fmt not in ("table", "json"):
        raise InvalidInput(f"there is no format '{fmt}' here", remedy="Give -f table or -f json.")


def cancel(job: Annotated[str, typer.Argument(help="Job id, or its first characters.")]) -> None:
    """Ask a job to stop; finished units are kept."""
    from auditor.service.states import LIVE

    view = services().jobs.cancel(job)
    stopping = view.cancel_requested and view.state in LIVE
    typer.echo(f"{view.id}  {view.state}{' (stopping)' if stopping else ''}")


def show_report(
    reference: Annotated[str, typer.Argument(metavar="ID", help="Report or job id, or its first characters.")],
    fmt: Annotated[
        str | None,
        typer.Option("-f", "--format", help="table, json, markdown, html, sarif, junit or gitlab; default: by --out."),
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="File to write; default: stdout.")] = None,
    images: Annotated[bool, typer.Option("--images/--no-images", help="Pictures in the HTML.")] = True,
    waivers: WaiversOption = None,
    baseline: BaselineOption = None,
    min_severity: MinSeverityOption = RiskLevel.LOW,
    anchor: AnchorOption = None,
) -> None:
    """A stored report. The exit code says nothing about its verdict: use `auditor gate`."""
    from auditor.contracts.jobs import JobKind
    from auditor.report.formats import render

    display, gating = display_of(anchor, min_severity), read_gating(waivers, baseline)
    fmt = fmt or ("table" if out is None else format_by_name(out))
    if fmt == "table" and out is not None:
        raise InvalidInput("a table goes to stdout only", remedy="Choose another format for a file.")
    house = services()
    entry = house.audits.find_report(reference)
    tell_trial(entry, reference)
    stored: AuditReport | RepairReport
    report: AuditReport | RepairReport
    if entry.kind is JobKind.REPAIR:
        stored = report = house.audits.get_repair_report(reference)
    else:
        stored = house.audits.get_report(reference)
        report = gated(stored, gating.looked_up(house, stored.target.name))
    if fmt == "table":
        _print(report)
        return
    gallery = house.audits.get_gallery(reference) if fmt == "html" and images else None
    text = render(report, fmt, gallery, display, stored=stored)
    if out is None:
        sys.stdout.write(text)
        return
    write_whole(out, text)
    typer.echo(f"wrote {out}", err=True)


def _print(report: AuditReport | RepairReport) -> None:
    from auditor.contracts.report import AuditReport

    if isinstance(report, AuditReport):
        from auditor.cli.table import print_report

        print_report(report)
    else:
        from auditor.cli.repair import print_repair

        print_repair(report)
