"""`init`, `submit`, `wait`, `status`, `list`, `cancel`: from a model file to a verdict and an exit code."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from auditor.errors import ExitCode, InvalidInput

if TYPE_CHECKING:
    from auditor.bootstrap import Services
    from auditor.contracts.jobs import JobView
    from auditor.contracts.manifest import Manifest
    from auditor.contracts.policy import Policy
    from auditor.contracts.report import AuditReport

MANIFEST = "auditor.yaml"
ModelArgument = Annotated[Path | None, typer.Argument(help="ONNX, safetensors or state-dict file.")]
ManifestOption = Annotated[
    Path | None, typer.Option("-c", "--config", help="Manifest; default: auditor.yaml beside the model.")
]
PlanOption = Annotated[str | None, typer.Option("--plan", help="quick, standard or deep; wins over the manifest.")]
PolicyOption = Annotated[Path | None, typer.Option("--policy", help="Policy file; wins over the manifest.")]
FailOnOption = Annotated[
    str | None, typer.Option("--fail-on", help="Gate fails at this level and above: low, medium, high, critical.")
]
TimeoutOption = Annotated[
    str | None, typer.Option("--timeout", help="Stop waiting after this long, e.g. 90s, 30m, 2h.")
]
OutputOption = Annotated[
    list[str] | None, typer.Option("-o", "--output", help="FORMAT=FILE (json, html, markdown); may be repeated.")
]
FormatOption = Annotated[str, typer.Option("-f", "--format", help="What to print on stdout: table, json, markdown.")]
QuietOption = Annotated[bool, typer.Option("-q", "--quiet", help="No progress on stderr.")]


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    for name, command in (
        ("init", init),
        ("submit", submit),
        ("wait", wait),
        ("status", status),
        ("list", list_jobs),
        ("cancel", cancel),
        ("report", show_report),
    ):
        app.command(name)(command)


def services() -> Services:
    """The wired use-cases for this process's settings."""
    from auditor.bootstrap import build_services
    from auditor.settings import Settings

    return build_services(Settings())


def init(
    model: Annotated[Path, typer.Argument(help="The model file the manifest is for.")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Default: auditor.yaml beside the model.")] = None,
    private: Annotated[Path | None, typer.Option(help="Private images: folder or npz.")] = None,
    heldout: Annotated[Path | None, typer.Option(help="Images of the same classes the model never saw.")] = None,
    public: Annotated[Path | None, typer.Option(help="Public images: same kind, other classes.")] = None,
    architecture: Annotated[str | None, typer.Option(help="Allow-list name; needed for bare weights.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing manifest.")] = False,
) -> None:
    """Write an auditor.yaml with everything that the model file itself says already filled in."""
    from auditor.contracts.manifest import DataSection, DataSpec, Manifest, ModelSpec
    from auditor.contracts.manifest_file import write_manifest

    path = out or model.parent / MANIFEST
    if path.exists() and not force:
        raise InvalidInput(f"{path} exists", remedy="Give --force to overwrite it, or --out for another place.")
    if not model.is_file():
        raise InvalidInput(f"no model file at {model}")
    name = re.sub(r"[^A-Za-z0-9._-]", "-", model.stem).lstrip("._-") or "model"
    spec = ModelSpec(name=name, architecture=architecture)
    inferred: dict[str, str] = {}
    if model.suffix == ".onnx" or architecture is not None:
        from auditor.loading.inspection import inspect_model

        card = inspect_model(model, spec)
        spec = spec.model_copy(update={"input": card.input, "n_classes": card.n_classes})
        inferred = card.inferred

    def data(source: Path | None) -> DataSpec | None:
        return None if source is None else DataSpec(path=_relative(source, path.parent))

    section = DataSection(private=data(private), heldout=data(heldout), public=data(public))
    write_manifest(Manifest(model=spec, data=section), path)
    for key, value in inferred.items():
        typer.echo(f"inferred {key}: {value}", err=True)
    typer.echo(str(path))


def _relative(path: Path, base: Path) -> Path:
    resolved, root = path.resolve(), base.resolve()
    return resolved.relative_to(root) if resolved.is_relative_to(root) else resolved


def submit(
    model: ModelArgument = None,
    config: ManifestOption = None,
    plan: PlanOption = None,
    policy: PolicyOption = None,
    fail_on: FailOnOption = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the verdict (with a broker).")] = True,
    timeout: TimeoutOption = None,
    output: OutputOption = None,
    fmt: FormatOption = "table",
    resume: Annotated[str | None, typer.Option("--resume", help="Go on with this job instead of a new one.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run again even if the same audit is stored.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Audit a model; the exit code is the gate's answer."""
    outputs = parse_outputs(output or [])
    check_format(fmt)
    timeout_s = parse_duration(timeout)
    with _progress(quiet) as progress:
        if resume is not None:
            house = services()
            job_id = house.jobs.resume(resume).id
        else:
            if model is None:
                raise InvalidInput("name a model file, or a job with --resume")
            request = _request(model, config, plan, policy, fail_on, fresh)
            house = services()
            started = house.audits.submit(request, progress.event)
            job_id = started.job_id
            if started.reused:
                typer.echo(f"job {job_id[:12]}: the same audit is stored already; --fresh runs it again", err=True)
        typer.echo(f"job {job_id[:12]}", err=True)
        if house.in_place:
            view = house.jobs.run_in_place(job_id, progress.event)
        elif wait:
            view = house.jobs.wait(job_id, progress.event, timeout_s=timeout_s)
        else:
            typer.echo(job_id)
            typer.echo("queued: no verdict yet; `auditor wait ID` gives it", err=True)
            return
    raise typer.Exit(conclude(house, view, outputs, fmt))


def wait(
    job: Annotated[str, typer.Argument(help="Job id, or its first characters.")],
    timeout: TimeoutOption = None,
    output: OutputOption = None,
    fmt: FormatOption = "table",
    quiet: QuietOption = False,
) -> None:
    """Wait for a job that workers run, and exit with its verdict."""
    outputs = parse_outputs(output or [])
    check_format(fmt)
    house = services()
    with _progress(quiet) as progress:
        view = house.jobs.wait(job, progress.event, timeout_s=parse_duration(timeout))
    raise typer.Exit(conclude(house, view, outputs, fmt))


def status(
    job: Annotated[str, typer.Argument(help="Job id, or its first characters.")],
    fmt: Annotated[str, typer.Option("-f", "--format", help="table or json.")] = "table",
) -> None:
    """Where a job is, unit by unit. A job that is not done shows no score."""
    view = services().jobs.status(job)
    if fmt == "json":
        typer.echo(view.model_dump_json(indent=2))
        return
    typer.echo(f"{view.id}  {view.kind}  {view.name}  {view.state}")
    for unit in view.units:
        state = "stalled" if unit.stalled else str(unit.state)
        seconds = "" if unit.seconds is None else f"{unit.seconds:8.1f}s"
        progress = "" if unit.progress is None else f"{unit.progress.stage} {unit.progress.done}/{unit.progress.total}"
        typer.echo(f"  {state:8} {unit.key:28} {seconds} {progress}")
        if unit.error is not None:
            typer.echo(f"           {unit.error.code}: {'; '.join(unit.error.problems)}")
    for report in view.report_ids:
        typer.echo(f"  report {report}")


def list_jobs(
    limit: Annotated[int, typer.Option("-n", help="How many, newest first.")] = 20,
    fmt: Annotated[str, typer.Option("-f", "--format", help="table or json.")] = "table",
) -> None:
    """The newest jobs with their verdicts."""
    import json

    house = services()
    verdicts = {entry.report_id: entry for entry in house.audits.list_reports(limit=500)}
    rows = []
    for view in house.jobs.list(limit):
        entry = verdicts.get(view.report_ids[-1]) if view.report_ids else None
        rows.append(
            {
                "id": view.id,
                "kind": str(view.kind),
                "name": view.name,
                "state": str(view.state),
                "created_at": view.created_at,
                "verdict": entry.verdict if entry else None,
                "level": entry.level if entry else None,
            }
        )
    if fmt == "json":
        typer.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        typer.echo(
            f"{str(row['id'])[:12]}  {row['kind']:6} {row['state']:9} {row['verdict'] or '-':12} "
            f"{row['level'] or '-':8} {row['created_at']}  {row['name']}"
        )


def cancel(job: Annotated[str, typer.Argument(help="Job id, or its first characters.")]) -> None:
    """Ask a job to stop; finished units are kept."""
    view = services().jobs.cancel(job)
    typer.echo(f"{view.id}  {view.state}{' (stopping)' if view.cancel_requested else ''}")


def show_report(
    reference: Annotated[str, typer.Argument(metavar="ID", help="Report or job id, or its first characters.")],
    fmt: Annotated[str, typer.Option("-f", "--format", help="table, json, markdown or html.")] = "table",
    out: Annotated[Path | None, typer.Option("-o", "--out", help="File to write; default: stdout.")] = None,
    images: Annotated[bool, typer.Option("--images/--no-images", help="Pictures in the HTML.")] = True,
) -> None:
    """A stored report. The exit code says nothing about its verdict: use `auditor gate`."""
    from auditor.contracts.jobs import JobKind
    from auditor.report.formats import render

    house = services()
    entry = house.audits.find_report(reference)
    if fmt == "table":
        if entry.kind is JobKind.REPAIR:
            from auditor.cli.repair import print_repair

            print_repair(house.audits.get_repair_report(reference))
        else:
            from auditor.cli.table import print_report

            print_report(house.audits.get_report(reference))
        return
    report = (
        house.audits.get_repair_report(reference)
        if entry.kind is JobKind.REPAIR
        else house.audits.get_report(reference)
    )
    gallery = house.audits.get_gallery(reference) if fmt == "html" and images else None
    text = render(report, fmt, gallery)
    if out is None:
        sys.stdout.write(text)
        return
    out.write_text(text)
    typer.echo(f"wrote {out}", err=True)


def _request(
    model: Path, config: Path | None, plan: str | None, policy: Path | None, fail_on: str | None, fresh: bool
) -> Any:
    """Manifest, policy and flags, in their order of precedence."""
    from auditor.contracts.manifest_file import read_manifest
    from auditor.service.audits import SubmitRequest

    path = _manifest_path(model, config)
    manifest = read_manifest(path)
    problems = [] if model.is_file() else [f"no model file at {model}"]
    if plan is not None:
        manifest = _with_preset(manifest, plan)
    effective = effective_policy(manifest, policy, fail_on)
    if problems:
        raise InvalidInput(problems)
    return SubmitRequest(model=model, manifest=manifest, base=path.parent, policy=effective, fresh=fresh)


def _manifest_path(model: Path, config: Path | None) -> Path:
    if config is not None:
        return config
    for path in (model.parent / MANIFEST, Path(MANIFEST)):
        if path.is_file():
            return path
    raise InvalidInput(
        f"no {MANIFEST} beside {model}", remedy=f"Write one with `auditor init {model}`, or name it with -c."
    )


def _with_preset(manifest: Manifest, preset: str) -> Manifest:
    from typing import cast

    from auditor.service.plans import PRESETS

    if preset not in PRESETS:
        raise InvalidInput(f"--plan: unknown preset '{preset}'. Known: {', '.join(PRESETS)}.")
    section = manifest.plan.model_copy(update={"preset": cast(Any, preset)})
    return manifest.model_copy(update={"plan": section})


def effective_policy(manifest: Manifest, path: Path | None, fail_on: str | None) -> Policy:
    """Flags win over the manifest, the manifest over the default."""
    from auditor.contracts.policy import Policy, RiskLevel

    policy = manifest.policy or Policy()
    if path is not None:
        from auditor.risk.policy_file import read_policy

        policy = read_policy(path)
    if fail_on is not None:
        if fail_on not in list(RiskLevel):
            raise InvalidInput(f"--fail-on: '{fail_on}' is not one of {', '.join(RiskLevel)}")
        policy = policy.model_copy(update={"fail_on": RiskLevel(fail_on)})
    return policy


def parse_outputs(items: Sequence[str]) -> list[tuple[str, Path]]:
    """FORMAT=FILE pairs, all problems at once."""
    from auditor.report.formats import FORMATS

    pairs, problems = [], []
    for item in items:
        fmt, sep, path = item.partition("=")
        if not sep or not path:
            problems.append(f"--output '{item}' is not FORMAT=FILE")
        elif fmt not in FORMATS:
            problems.append(f"--output: unknown format '{fmt}'. Known: {', '.join(FORMATS)}.")
        elif not Path(path).absolute().parent.is_dir():
            problems.append(f"--output: no folder {Path(path).absolute().parent}")
        else:
            pairs.append((fmt, Path(path)))
    if problems:
        raise InvalidInput(problems)
    return pairs


def check_format(fmt: str) -> None:
    """Refuse a stdout format that a verdict cannot be printed in."""
    if fmt not in ("table", "json", "markdown"):
        raise InvalidInput(f"--format: '{fmt}' is not one of table, json, markdown")


def parse_duration(text: str | None) -> float | None:
    """Seconds in `90`, `90s`, `30m`, `2h`."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if match is None:
        raise InvalidInput(f"--timeout: '{text}' is not a duration such as 90s, 30m or 2h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def _progress(quiet: bool) -> Any:
    from auditor.cli.progress import JobProgress

    return JobProgress(quiet=quiet)


def conclude(house: Services, view: JobView, outputs: Sequence[tuple[str, Path]], fmt: str) -> ExitCode:
    """Print the report of a job that ended, write the files asked for, and return the exit code of its verdict."""
    from auditor.contracts.jobs import JobKind, JobState
    from auditor.risk.exit_code import exit_code

    if view.state is JobState.CANCELLED:
        typer.echo(f"job {view.id[:12]} was cancelled; `auditor submit --resume {view.id[:12]}` goes on", err=True)
        return ExitCode.INTERRUPTED
    if view.state is not JobState.DONE or not view.report_ids:
        problems = view.error.problems if view.error else ("it left no report",)
        typer.echo(f"error: job {view.id[:12]} failed:", err=True)
        for problem in problems:
            typer.echo(f"  - {problem}", err=True)
        if view.error and view.error.remedy:
            typer.echo(view.error.remedy, err=True)
        return ExitCode.INCONCLUSIVE if view.error and view.error.code == "unsupported_model" else ExitCode.ERROR
    if view.kind is JobKind.REPAIR:
        from auditor.cli.repair import show_repair

        return show_repair(house, view.id, outputs, fmt)
    report = house.audits.get_report(view.id)
    code = exit_code(report.verdict)
    _write(house, view.id, report, outputs)
    if fmt == "table":
        from auditor.cli.table import print_report

        print_report(report)
    else:
        from auditor.report.formats import render

        sys.stdout.write(str(render(report, fmt)))
    return code


def _write(house: Services, reference: str, report: AuditReport, outputs: Sequence[tuple[str, Path]]) -> None:
    from auditor.report.formats import render

    for fmt, path in outputs:
        gallery = house.audits.get_gallery(reference) if fmt == "html" else None
        text = render(report, fmt, gallery)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        typer.echo(f"wrote {path}", err=True)
