"""`auditor plan`: the plan that would run, and with --explain what it would cost on this machine; nothing is stored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from auditor.cli.audit import (
    MANIFEST,
    ModelArgument,
    effective_policy,
    manifest_path,
    submit_request,
    with_preset,
    with_split,
)
from auditor.cli.options import (
    BudgetOption,
    ManifestOption,
    PlanOption,
    PolicyOption,
    QuietOption,
    SplitOption,
    local_services,
    parse_duration,
)
from auditor.errors import InvalidInput

if TYPE_CHECKING:
    from auditor.contracts.estimate import AttackEstimate, PlanEstimate
    from auditor.contracts.manifest import Manifest
    from auditor.contracts.plan import AuditPlan


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command("plan")(plan)


def plan(
    model: ModelArgument = None,
    config: ManifestOption = None,
    preset: PlanOption = None,
    policy: PolicyOption = None,
    split: SplitOption = None,
    budget: BudgetOption = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Queries, passes, memory and time of each attack.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
    quiet: QuietOption = False,
) -> None:
    """What `submit` would run, and what it costs here: a dry run that stores nothing."""
    budget_s = parse_duration(budget, option="--budget")
    if budget_s is not None and model is None:
        raise InvalidInput("--budget needs a model: times are measured on it", remedy="Name the model file.")
    reads_model = model is not None and (explain or budget_s is not None)
    if split is not None and not reads_model:
        typer.echo("--split: whether the model has this layer is seen when it is read, with --explain", err=True)
    if model is not None and reads_model:
        from auditor.cli.progress import JobProgress

        request = submit_request(model, config, preset, policy, None, split=split, budget_s=budget_s)
        house = local_services()
        with JobProgress(quiet=quiet) as progress:
            estimate = house.audits.estimate(request, progress.event)
    else:
        estimate = _by_counts(_manifest(model, config, preset, split), policy)
    if as_json:
        typer.echo((estimate if explain else estimate.plan).model_dump_json(indent=2))
    elif explain:
        print_estimate(estimate)
    else:
        print_plan(estimate.plan)
        _obstacles(estimate)


def _manifest(model: Path | None, config: Path | None, preset: str | None, split: str | None) -> Manifest:
    """The manifest named or found; a preset alone needs none."""
    from auditor.contracts.manifest import Manifest, ModelSpec
    from auditor.contracts.manifest_file import read_manifest

    if model is None and config is None and not Path(MANIFEST).is_file() and preset is not None:
        manifest = Manifest(model=ModelSpec(name="none"))
    else:
        manifest = read_manifest(manifest_path(model or Path("model"), config))
    if preset is not None:
        manifest = with_preset(manifest, preset)
    return manifest if split is None else with_split(manifest, split)


def _by_counts(manifest: Manifest, policy: Path | None) -> PlanEstimate:
    """Without a model: what the manifest and the catalogs alone say, all problems of the plan at once."""
    from auditor.service.estimates import estimate_plan
    from auditor.service.matching import component_problems
    from auditor.service.plans import plan_problems, resolve_plan

    resolved, data = resolve_plan(manifest.plan), manifest.data
    has_generator, has_public = data.generator is not None, data.public is not None
    problems = plan_problems(resolved)
    problems += component_problems(resolved, has_generator=has_generator, has_public=has_public, access=None)
    if problems:
        raise InvalidInput(problems, remedy="Correct the plan; `auditor catalog` lists names and parameters.")
    return estimate_plan(
        resolved,
        effective_policy(manifest, policy, None),
        weights_published=manifest.model.weights_published,
        n_classes=manifest.model.n_classes,
    )


def print_plan(shown: AuditPlan) -> None:
    """The plan in one table on stdout."""
    _head(shown)
    rows = [("attack", "prior", "parameters beside the defaults")]
    for spec in shown.attacks:
        rows.append((spec.key, spec.prior or "", ", ".join(f"{name}={value}" for name, value in spec.params.items())))
    _table(rows, right=())
    typer.echo("")
    for prior in shown.priors:
        params = ", ".join(f"{name}={value}" for name, value in prior.params.items())
        typer.echo(f"prior {prior.name}{': ' if params else ''}{params}")
    _left_out(shown)


def _head(shown: AuditPlan) -> None:
    classes = "all classes" if shown.n_classes is None else f"at most {shown.n_classes} classes"
    scores = "with" if shown.fisher.enabled else "without"
    typer.echo(
        f"plan {shown.name}, seed {shown.seed}: {classes}, {shown.samples_per_class} samples each; evaluator "
        f"{shown.evaluator.epochs} epochs, judge {shown.judge.epochs} epochs; {scores} layer scores"
    )
    typer.echo("")


def print_estimate(estimate: PlanEstimate) -> None:
    """What every attack costs, what the rest costs, what cannot run, and what the plan cannot show."""
    _head(estimate.plan)
    heads = (
        "attack",
        "access",
        "prior",
        "adaptive",
        "queries/class",
        "shared",
        "forward",
        "backward",
        "memory",
        "time",
    )
    able = [row for row in estimate.attacks if row.runnable]
    _table([heads, *(_cells(row) for row in able)], right=range(4, len(heads)))
    typer.echo("")
    if estimate.n_attacked is None:
        typer.echo("Counts are for one class: how many the target has is not known.")
    if estimate.rates is not None:
        for step in estimate.steps:
            typer.echo(f"{step.name:32} {duration(step.seconds):>10}")
        total = f"{'total':32} {duration(estimate.seconds):>10}"
        typer.echo(total + (f", without {', '.join(estimate.unknown)}" if estimate.unknown else ""))
        typer.echo(
            f"Estimated on {estimate.rates.device} from a probe of {duration(estimate.rates.probe_s)}; "
            "what an earlier audit left in the cache takes no time."
        )
    else:
        typer.echo("Name the model file for memory and times: they are measured on it.")
    for row in estimate.attacks:
        if not row.runnable:
            typer.echo(f"cannot run: {row.key} ({row.access}): {row.reason}")
    _left_out(estimate.plan)
    _obstacles(estimate)


def _obstacles(estimate: PlanEstimate) -> None:
    for reason in estimate.obstacles:
        typer.echo(f"cannot end in a pass: {reason}")


def _cells(row: AttackEstimate) -> tuple[str, ...]:
    cost, most = row.cost, "<=" if row.cost and row.cost.bound else ""
    return (
        row.key,
        row.access,
        row.prior or "-",
        "yes" if row.adaptive else "",
        f"{most}{row.per_class:,}" if row.per_class is not None else "-",
        f"{row.shared:,}",
        f"{most}{cost.forward:,}" if cost else "-",
        f"{most if cost.backward else ''}{cost.backward:,}" if cost else "-",
        f"{row.memory_bytes / 2**20:,.0f} MiB" if row.memory_bytes is not None else "-",
        duration(row.seconds),
    )


def _left_out(shown: AuditPlan) -> None:
    if shown.left_out:
        typer.echo(f"left out to fit the budget: {', '.join(shown.left_out)}")


def _table(rows: Sequence[tuple[str, ...]], *, right: range | tuple[int, ...]) -> None:
    """Aligned columns; those in `right` to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if place in right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        typer.echo("  ".join(cells).rstrip())


def duration(seconds: float | None) -> str:
    """`0.4 s`, `45 s`, `12 min`, `3 h 05 min`; `-` when not known."""
    if seconds is None:
        return "-"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
