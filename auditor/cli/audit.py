"""`init`, `submit`, `wait`: from a model file to a verdict and an exit code."""

from __future__ import annotations

import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from auditor.cli.conclusion import Telling, conclude
from auditor.cli.gating import read_gating
from auditor.cli.options import (
    AnchorOption,
    BaselineOption,
    BudgetOption,
    FailOnOption,
    FormatOption,
    ManifestOption,
    MinSeverityOption,
    OutputOption,
    PlanOption,
    PolicyOption,
    PriorityOption,
    QuietOption,
    SplitOption,
    SummaryOption,
    TimeoutOption,
    WaiversOption,
    check_format,
    display_of,
    parse_duration,
    parse_outputs,
    services,
)
from auditor.contracts.policy import RiskLevel
from auditor.errors import InvalidInput

if TYPE_CHECKING:
    from auditor.contracts.manifest import Manifest
    from auditor.contracts.policy import Policy
    from auditor.service.audits import SubmitRequest

MANIFEST = "auditor.yaml"
ModelArgument = Annotated[Path | None, typer.Argument(help="ONNX, safetensors or state-dict file.")]


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    for name, command in (
        ("init", init),
        ("submit", submit),
        ("wait", wait),
    ):
        app.command(name)(command)


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
    problems = [] if model.is_file() else [f"no model file at {model}"]
    problems += [f"no data at {source}" for source in (private, heldout, public) if source and not source.exists()]
    problems += [] if path.absolute().parent.is_dir() else [f"--out: no folder {path.absolute().parent}"]
    if model.suffix != ".onnx" and architecture is None:
        problems.append("bare weights need --architecture, a name that `auditor catalog` lists")
    if problems:
        raise InvalidInput(problems)
    name = re.sub(r"[^A-Za-z0-9._-]", "-", model.stem).lstrip("._-") or "model"
    spec = ModelSpec(name=name, architecture=architecture)
    inferred: dict[str, str] = {}
    if model.suffix == ".onnx" or architecture is not None:
        from auditor.loading.external_data import gather_weights
        from auditor.loading.inspection import inspect_model

        with tempfile.TemporaryDirectory() as folder:
            card = inspect_model(gather_weights(model, Path(folder) / "model"), spec)
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
    budget: BudgetOption = None,
    split: SplitOption = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the verdict (with a broker).")] = True,
    timeout: TimeoutOption = None,
    priority: PriorityOption = 0,
    output: OutputOption = None,
    fmt: FormatOption = "table",
    resume: Annotated[str | None, typer.Option("--resume", help="Go on with this job instead of a new one.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run again even if the same audit is stored.")] = False,
    waivers: WaiversOption = None,
    baseline: BaselineOption = None,
    min_severity: MinSeverityOption = RiskLevel.LOW,
    anchor: AnchorOption = None,
    step_summary: SummaryOption = True,
    quiet: QuietOption = False,
) -> None:
    """Audit a model; the exit code is the gate's answer."""
    check_format(fmt)
    manifest = manifest_path(model, config) if model is not None and resume is None else None
    telling = Telling(
        outputs=parse_outputs(output or []),
        fmt=fmt,
        display=display_of(anchor, min_severity, manifest),
        step_summary=step_summary,
    )
    gating = read_gating(waivers, baseline)
    timeout_s, budget_s = parse_duration(timeout), parse_duration(budget, option="--budget")
    if resume is not None:
        _refuse_beside_resume(
            model=model,
            config=config,
            plan=plan,
            policy=policy,
            fail_on=fail_on,
            budget=budget,
            split=split,
            fresh=fresh,
            priority=priority,
        )
    if gating.given and not wait:
        raise InvalidInput(
            "--waivers and --baseline need a verdict, and --no-wait gives none",
            remedy="Give them to `auditor wait ID`.",
        )
    house = services()
    if house.in_place and (timeout is not None or not wait):
        raise InvalidInput(
            "--timeout and --no-wait are for jobs that workers run; without a broker the audit runs in this process",
            remedy="Set AUDITOR_BROKER_URL, or limit the command: `timeout 30m auditor submit ...` leaves a job that "
            "`--resume` goes on with.",
        )
    with _progress(quiet) as progress:
        if resume is not None:
            gating.looked_up(house, house.jobs.status(resume).name)
            job_id = house.jobs.resume(resume).id
        else:
            if model is None:
                raise InvalidInput("name a model file, or a job with --resume")
            request = submit_request(model, config, plan, policy, fail_on, split=split, fresh=fresh, budget_s=budget_s)
            request = replace(request, priority=priority)
            gating.looked_up(house, request.manifest.model.name)  # hours before it is needed
            started = house.audits.submit(request, progress.event)
            job_id = started.job_id
            if started.told:
                typer.echo(f"job {job_id[:12]}: the same audit is {started.told}", err=True)
        typer.echo(f"job {job_id[:12]}", err=True)
        if house.in_place:
            view = house.jobs.run_in_place(job_id, progress.event)
        elif wait:
            view = house.jobs.wait(job_id, progress.event, timeout_s=timeout_s)
        else:
            typer.echo(job_id)
            typer.echo("queued: no verdict yet; `auditor wait ID` gives it", err=True)
            return
    raise typer.Exit(conclude(house, view, telling, gating))


def _refuse_beside_resume(**given: object) -> None:
    """A job goes on with the model, plan and policy it was given; another policy is for the gate."""
    named = ["a model file" if name == "model" else f"--{name.replace('_', '-')}" for name in given if given[name]]
    if named:
        raise InvalidInput(
            f"--resume goes on with the job as it was submitted; it cannot be combined with {', '.join(named)}",
            remedy="`auditor gate report.json --policy ... --fail-on ...` decides again by another policy.",
        )


def wait(
    job: Annotated[str, typer.Argument(help="Job id, or its first characters.")],
    timeout: TimeoutOption = None,
    output: OutputOption = None,
    fmt: FormatOption = "table",
    waivers: WaiversOption = None,
    baseline: BaselineOption = None,
    min_severity: MinSeverityOption = RiskLevel.LOW,
    anchor: AnchorOption = None,
    step_summary: SummaryOption = True,
    quiet: QuietOption = False,
) -> None:
    """Wait for a job that workers run, and exit with its verdict."""
    check_format(fmt)
    telling = Telling(parse_outputs(output or []), fmt, display_of(anchor, min_severity), step_summary)
    gating = read_gating(waivers, baseline)
    house = services()
    gating.looked_up(house, house.jobs.status(job).name)
    with _progress(quiet) as progress:
        view = house.jobs.wait(job, progress.event, timeout_s=parse_duration(timeout))
    raise typer.Exit(conclude(house, view, telling, gating))


def submit_request(
    model: Path,
    config: Path | None,
    plan: str | None,
    policy: Path | None,
    fail_on: str | None,
    *,
    split: str | None = None,
    fresh: bool = False,
    budget_s: float | None = None,
) -> SubmitRequest:
    """Manifest, policy and flags, in their order of precedence."""
    from auditor.contracts.manifest_file import read_manifest
    from auditor.service.audits import SubmitRequest

    path = manifest_path(model, config)
    manifest = read_manifest(path)
    problems = [] if model.is_file() else [f"no model file at {model}"]
    if plan is not None:
        manifest = with_preset(manifest, plan)
    if split is not None:
        manifest = with_split(manifest, split)
    effective = effective_policy(manifest, policy, fail_on)
    if problems:
        raise InvalidInput(problems)
    return SubmitRequest(model, manifest, base=path.parent, policy=effective, fresh=fresh, budget_s=budget_s)


def manifest_path(model: Path, config: Path | None) -> Path:
    """The manifest named, or the one beside the model, or the one here."""
    if config is not None:
        return config
    for path in (model.parent / MANIFEST, Path(MANIFEST)):
        if path.is_file():
            return path
    raise InvalidInput(
        f"no {MANIFEST} beside {model}", remedy=f"Write one with `auditor init {model}`, or name it with -c."
    )


def with_preset(manifest: Manifest, preset: str) -> Manifest:
    """The manifest with a preset in place of its own plan."""
    from typing import cast

    from auditor.contracts.manifest import PlanSection
    from auditor.service.plans import PRESETS

    if preset not in PRESETS:
        raise InvalidInput(f"--plan: unknown preset '{preset}'. Known: {', '.join(PRESETS)}.")
    section = PlanSection(preset=cast(Any, preset), seed=manifest.plan.seed)
    if section != manifest.plan:
        typer.echo(f"--plan {preset}: the manifest's own plan is set aside, but for its seed", err=True)
    return manifest.model_copy(update={"plan": section})


def with_split(manifest: Manifest, layer: str) -> Manifest:
    """The manifest with its model cut at `layer`; attacks and priors of its own plan that know no cut are set aside."""
    from auditor.service.plans import SPLIT_NAMES

    section = manifest.plan.model_copy(update={"split": layer})
    if section.attacks is not None and not any(attack.name in SPLIT_NAMES for attack in section.attacks):
        typer.echo("--split: the manifest's own attacks are set aside for those on a cut model", err=True)
        section = section.model_copy(update={"attacks": None, "priors": None})
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
        policy = policy.failing_on(RiskLevel(fail_on))
    return policy


def _progress(quiet: bool) -> Any:
    from auditor.cli.progress import JobProgress

    return JobProgress(quiet=quiet)
