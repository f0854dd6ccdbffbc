"""`demo`: the whole loop on data that ships with the program."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from auditor.cli.progress import JobProgress
from auditor.cli.report import write_whole

if TYPE_CHECKING:
    from auditor.bootstrap import Services
    from auditor.contracts.report import AuditReport
    from auditor.demo.guided import DemoSubmission


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command("demo")(demo)


def demo(
    data: Annotated[str, typer.Option("--data", help="identities, digits, olivetti or lfw.")] = "identities",
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for model, data and reports.")] = Path("demo-out"),
    size: Annotated[int, typer.Option(min=16, max=128, help="Side of the images in pixels.")] = 32,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    repair: Annotated[bool, typer.Option("--repair/--no-repair", help="Repair and audit again.")] = True,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No progress on stderr.")] = False,
) -> None:
    """Train a small classifier, submit it as ONNX, audit, repair with TL-DMI, audit again, compare.

    Always exits 0 when the loop ran: the verdict is part of what is shown.
    """
    from auditor.cli.options import local_services
    from auditor.demo.guided import write_submission

    started = time.monotonic()
    with JobProgress(quiet=quiet) as progress:
        submission = write_submission(out, data, size=size, seed=seed, on_step=progress.step)
    typer.echo(submission.description)
    typer.echo(f"target: {submission.target_summary}")
    house = local_services()
    report = _audit(house, submission, out, quiet=quiet)
    if repair:
        _repair(house, report, out, quiet=quiet)
    typer.echo(f"the whole loop took {time.monotonic() - started:.0f} s")


def _audit(house: Services, submission: DemoSubmission, out: Path, *, quiet: bool) -> AuditReport:
    """Submit, print, and write `report.html` and `report.json`."""
    from auditor.cli.audit import effective_policy
    from auditor.cli.table import print_report
    from auditor.contracts.manifest_file import read_manifest
    from auditor.report.formats import render
    from auditor.service.audits import SubmitRequest

    manifest = read_manifest(submission.manifest)
    policy = effective_policy(manifest, None, None)
    request = SubmitRequest(model=submission.model, manifest=manifest, base=out, policy=policy, fresh=True)
    with JobProgress(quiet=quiet) as progress:
        audit = house.jobs.run_in_place(house.audits.submit(request, progress.event).job_id, progress.event)
    report = house.audits.get_report(audit.id)
    print_report(report)
    page = out / "report.html"
    write_whole(page, render(report, "html", house.audits.get_gallery(audit.id)))
    write_whole(out / "report.json", render(report, "json"))
    typer.echo(f"report: {page}")
    return report


def _repair(house: Services, report: AuditReport, out: Path, *, quiet: bool) -> None:
    """Repair, print the comparison, and write it and the repaired model."""
    from auditor.cli.repair import print_repair
    from auditor.report.formats import render
    from remediation.service import RepairRequest

    with JobProgress(quiet=quiet) as progress:
        view = house.jobs.run_in_place(house.repairs.start(RepairRequest(reference=report.id)).job_id, progress.event)
    repaired = house.audits.get_repair_report(view.id)
    typer.echo("")
    print_repair(repaired)
    write_whole(out / "repair.html", render(repaired, "html"))
    write_whole(out / "repair.json", render(repaired, "json"))
    if repaired.model_digest is not None:
        house.store.get_path(repaired.model_digest, out / "repaired.onnx")
    typer.echo(f"repair: {out / 'repair.html'}")
