"""`remediate`: repair what an audit found, and audit again."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from auditor.cli.conclusion import Telling, conclude
from auditor.cli.options import (
    FormatOption,
    OutputOption,
    PriorityOption,
    QuietOption,
    SummaryOption,
    check_format,
    parse_outputs,
    services,
)
from auditor.cli.report import write_outputs
from auditor.cli.step_summary import append_step_summary
from auditor.errors import ExitCode, InvalidInput

if TYPE_CHECKING:
    from auditor.cli.options import House
    from auditor.contracts.repair import RepairReport
    from auditor.contracts.report import AuditReport
    from auditor.contracts.scores import Score


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command("remediate")(remediate)


def remediate(
    audit: Annotated[str, typer.Argument(help="Report or job id of the audit, or its first characters.")],
    weights: Annotated[
        str | None,
        typer.Option(help="Safetensors trained on public data only, or torchvision:NAME; default: pre-train here."),
    ] = None,
    max_accuracy_loss: Annotated[
        float | None, typer.Option(help="Held-out accuracy points (0..1) the repair may cost; wins over the manifest.")
    ] = None,
    defense: Annotated[
        str | None, typer.Option(help="Defense of the catalog; wins over the manifest. See --advise.")
    ] = None,
    search: Annotated[
        str | None, typer.Option(help="Boundaries to try: fisher, sweep or fixed:K; wins over the manifest.")
    ] = None,
    advice: Annotated[
        bool,
        typer.Option("--advise", help="Only list the defenses that fit this audit, and why others do not."),
    ] = False,
    boundary: Annotated[list[int] | None, typer.Option(help="Frozen units to try; may be repeated.")] = None,
    params: Annotated[str | None, typer.Option(help="Defense parameters as JSON (see `auditor catalog`).")] = None,
    model_out: Annotated[Path | None, typer.Option(help="Write the repaired model here.")] = None,
    output: OutputOption = None,
    fmt: FormatOption = "table",
    fresh: Annotated[bool, typer.Option("--fresh", help="Run again even if the same repair is stored.")] = False,
    priority: PriorityOption = 0,
    step_summary: SummaryOption = True,
    quiet: QuietOption = False,
) -> None:
    """Repair the model with a defense, audit what came out, and prove it; exit code = the verdict after it."""
    from auditor.cli.progress import JobProgress
    from auditor.contracts.jobs import JobState
    from auditor.report.formats import REPAIR_FORMATS
    from remediation.service import RepairRequest

    telling = Telling(parse_outputs(output or [], REPAIR_FORMATS), fmt, step_summary=step_summary)
    check_format(fmt)
    if model_out is not None and not model_out.absolute().parent.is_dir():
        raise InvalidInput(f"--model-out: no folder {model_out.absolute().parent}")
    house = services()
    if advice:
        print_advice(house.audits.get_report(audit))
        return
    request = RepairRequest(
        reference=audit,
        weights=weights,
        max_accuracy_loss=max_accuracy_loss,
        defense=defense,
        search=search,
        params=_params(params) | ({"boundaries": boundary} if boundary else {}),
        fresh=fresh,
        priority=priority,
    )
    started = house.repairs.start(request)
    typer.echo(f"job {started.job_id[:12]}{f' ({started.told})' if started.told else ''}", err=True)
    with JobProgress(quiet=quiet) as progress:
        run = house.jobs.run_in_place if house.in_place else house.jobs.wait
        view = run(started.job_id, progress.event)
    code = conclude(house, view, telling)
    if model_out is not None and view.state is JobState.DONE:
        _write_model(house, view.id, model_out)
    raise typer.Exit(code)


def print_advice(report: AuditReport) -> None:
    """What can be tried, least effort first, and what cannot, with the reason."""
    from remediation.advice import advise

    takes = {"serving": "no training", "fine-tune": "fine-tuning", "retrain": "retraining from public weights"}
    for row in advise(report):
        offer = row.offer
        typer.echo(f"{'  ' if row.against else '* '}{offer.name}: {takes[offer.reach]}. {offer.summary}")
        typer.echo(f"    {offer.caveat}")
        for reason in row.against:
            typer.echo(f"    not here: it {reason}")
    typer.echo("* can be tried: auditor remediate ID --defense NAME")


def _params(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidInput(f"--params is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidInput("--params must be a JSON object")
    return value


def _write_model(house: House, job_id: str, path: Path) -> None:
    report = house.audits.get_repair_report(job_id)
    if report.model_digest is None:
        typer.echo("no candidate was kept, so there is no model to write", err=True)
        return
    house.write_repaired_model(job_id, path)
    typer.echo(f"wrote {path}", err=True)


def show_repair(house: House, job_id: str, telling: Telling) -> ExitCode:
    """Print a repair's report, write the files asked for; the exit code is the verdict after.

    Without a repaired model nothing was decided: inconclusive. The verdict on the submission is that of its audit.
    """
    from auditor.contracts.policy import Verdict
    from auditor.report.formats import render
    from auditor.risk.exit_code import exit_code

    report = house.audits.get_repair_report(job_id)
    if telling.fmt == "table":
        print_repair(report)
    else:
        sys.stdout.write(render(report, telling.fmt))
    verdict = report.verdict_after or Verdict.INCONCLUSIVE
    append_step_summary(report, wanted=telling.step_summary)
    return write_outputs(telling.outputs, lambda kind: render(report, kind), exit_code(verdict))


def _lifts(report: RepairReport) -> list[Mapping[str, Score]]:
    return [candidate.lift for candidate in report.candidates]


def print_repair(report: RepairReport) -> None:
    """Write the table to stdout."""
    from auditor.cli.table import interval

    typer.echo(f"{report.defense}: {report.paper}")
    typer.echo(f"started from {report.pretraining}")
    keys = list(dict.fromkeys(key for lifts in (report.quick_lift_before, *_lifts(report)) for key in lifts))

    def cells(lifts: Mapping[str, Score]) -> str:
        return " ".join(f"{interval(lifts[key]) if key in lifts else '-':25}" for key in keys)

    typer.echo(f"{'':10} {'accuracy':24} " + " ".join(f"lift {key:20}" for key in keys))
    typer.echo(f"{'before':10} {interval(report.accuracy_before):24} {cells(report.quick_lift_before)}")
    for candidate in report.candidates:
        mark = "*" if candidate.freeze.boundary == report.chosen else " "
        name = f"{mark}k={candidate.freeze.boundary}/{candidate.freeze.n_units}"
        within = " on the front" if candidate.freeze.boundary in report.front else ""
        within += "" if candidate.within_budget else " over the accuracy budget"
        typer.echo(f"{name:10} {interval(candidate.accuracy):24} {cells(candidate.lift)}{within}")
    typer.echo("")
    for row in (*report.adaptive_differences, *report.differences):
        typer.echo(
            f"{row.attack:20} {row.metric:16} before {interval(row.before):24} after {interval(row.after):24} "
            f"lowered by {interval(row.difference)}"
        )
    for note in report.notes:
        typer.echo(f"  - {note}")
    after = report.verdict_after.upper() if report.verdict_after else "NOT REPAIRED"
    typer.echo(f"{report.verdict_before.upper()} -> {after}  repair {report.id[:12]}")
