"""`catalog`, `doctor`, `worker`, `migrate`: what there is, whether it works here, and what keeps it running."""

from __future__ import annotations

import importlib
import json
import os
from typing import Annotated, Any

import typer

from auditor.cli.options import read_settings
from auditor.errors import ExitCode, InvalidInput


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("catalog")(catalog)
    app.command("doctor")(doctor)
    app.command("worker")(worker)
    app.command("migrate")(migrate)
    app.command("gc")(collect_garbage)


def catalog(
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as one JSON object.")] = False,
) -> None:
    """Every attack, evaluator, prior and defense with access level, paper, and each parameter's default and range."""
    from auditor.attacks.catalog import ATTACKS
    from auditor.attacks.split.catalog import SPLIT_ATTACKS
    from auditor.cli.parameters import parameter_lines
    from auditor.evaluation.catalog import EVALUATORS
    from auditor.priors.catalog import PRIORS
    from auditor.targets.architectures import architecture_names
    from remediation.defenses.catalog import DEFENSES

    tables: dict[str, list[dict[str, Any]]] = {
        "attacks": ATTACKS.describe(),
        "attacks on a cut model": SPLIT_ATTACKS.describe(),
        "evaluators": EVALUATORS.describe(),
        "priors": PRIORS.describe(),
        "defenses": DEFENSES.describe(),
    }
    if as_json:
        typer.echo(json.dumps({**tables, "architectures": list(architecture_names())}, indent=2))
        return
    for kind, rows in tables.items():
        typer.echo(f"{kind}:")
        for row in rows:
            access = f" [{row['access']}]" if "access" in row else ""
            typer.echo(f"  {row['name']}{access}  {row['summary']}")
            typer.echo(f"      {row['paper']}")
            for line in parameter_lines(row["parameters"]):
                typer.echo(f"      {line}")


def doctor() -> None:
    """Check this installation: versions, device, database, broker, artifact folder."""
    settings = read_settings()
    checks = [
        _versions(),
        _device(settings),
        _database(settings),
        _store(settings),
        _broker(settings),
        _isolation(settings),
    ]
    for name, ok, text in checks:
        typer.echo(f"{'ok  ' if ok else 'FAIL'} {name:10} {text}")
    if not all(ok for _, ok, _ in checks):
        raise typer.Exit(ExitCode.ERROR)


def _versions() -> tuple[str, bool, str]:
    import torch

    from auditor.targets import ort_session

    onnxruntime = ort_session.onnxruntime  # type: ignore[attr-defined]
    telemetry = "off" if os.environ.get("ORT_DISABLE_TELEMETRY") == "1" else "ON"
    providers = ", ".join(onnxruntime.get_available_providers())
    text = f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__} ({providers}; telemetry {telemetry})"
    return "versions", telemetry == "off", text


def _device(settings: Any) -> tuple[str, bool, str]:
    import torch

    if torch.cuda.is_available():
        return "device", True, f"cuda: {torch.cuda.get_device_name(0)}"
    return "device", settings.device != "cuda", f"cpu, {torch.get_num_threads()} threads (no CUDA device)"


def _database(settings: Any) -> tuple[str, bool, str]:
    from auditor.bootstrap import build_services
    from auditor.errors import AuditorError

    try:
        build_services(settings).jobs.list(1)
    except AuditorError as error:
        return "database", False, f"{error.message} {error.remedy}"
    kind = "SQLite" if settings.database_url is None else "configured by AUDITOR_DATABASE_URL"
    return "database", True, kind


def _store(settings: Any) -> tuple[str, bool, str]:
    """Reads the smallest of a few artifacts: none that is encrypted with another key can be."""
    import shutil
    from itertools import islice

    from auditor.bootstrap import build_store
    from auditor.errors import AuditorError

    try:
        store = build_store(settings)
        for found in sorted(islice(store.list(), 100), key=lambda found: found.size)[:10]:
            store.get_bytes(found.digest)
    except AuditorError as error:
        return "artifacts", False, f"{error.message}. {error.remedy}"
    if settings.artifacts is not None:
        return "artifacts", True, f"{settings.artifacts} reached"
    settings.home.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(settings.home).free
    return "artifacts", free > 2**30, f"{settings.home}, {free / 2**30:.1f} GiB free"


def _broker(settings: Any) -> tuple[str, bool, str]:
    if settings.broker_url is None:
        return "broker", True, "none: jobs run in place"
    import redis

    try:
        redis.Redis.from_url(settings.broker_url.get_secret_value()).ping()
    except redis.RedisError as error:
        return "broker", False, f"cannot be reached: {error}"
    return "broker", True, "reached"


def _isolation(settings: Any) -> tuple[str, bool, str]:
    from auditor.bootstrap import runner_memory
    from auditor.runner.isolation import FILES, NETWORK, layers_here

    if settings.isolation == "off":
        return "isolation", True, "off: the runner process may do what this user may (AUDITOR_ISOLATION)"
    layers = layers_here(settings.home, runner_memory(settings))
    held = {layer.name for layer in layers if layer.active}
    text = ", ".join(f"{layer.name} {'yes' if layer.active else f'NO ({layer.note})'}" for layer in layers)
    was_tried = NETWORK in {layer.name for layer in layers}  # otherwise every runner process would end like the trial
    return "isolation", was_tried and (settings.isolation == "auto" or {NETWORK, FILES} <= held), text


def worker(
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, help="Units at a time, without --gpus.")] = 1,
    gpus: Annotated[str | None, typer.Option("--gpus", help="GPUs, e.g. 0,1: one unit at a time on each.")] = None,
    drain_timeout: Annotated[
        float, typer.Option("--drain-timeout", min=0, help="Seconds that a running unit may go on after SIGTERM.")
    ] = 600.0,
) -> None:
    """Start a Celery worker (needs AUDITOR_BROKER_URL). SIGTERM drains it; a second one, or SIGQUIT, stops it now."""
    settings = read_settings()
    if settings.broker_url is None:
        raise InvalidInput(
            "AUDITOR_BROKER_URL is not set", remedy="Set it to the Redis address, e.g. redis://localhost:6379/0."
        )
    run_worker = importlib.import_module("workers.lifecycle").run_worker
    names = () if gpus is None else tuple(name.strip() for name in gpus.split(","))
    raise typer.Exit(run_worker(settings, concurrency, gpus=names, drain_timeout_s=drain_timeout))


def migrate() -> None:
    """Bring the database to the newest schema, and the verdicts in lists to the rules of this version."""
    from auditor.bootstrap import migrate as bring_up_to_date

    revision, judged = bring_up_to_date(read_settings())
    typer.echo(f"database is at revision {revision}", err=True)
    if judged:
        typer.echo(
            f"{judged} stored {'report' if judged == 1 else 'reports'} judged by the rules of this version", err=True
        )


def collect_garbage(
    older_than: Annotated[str, typer.Option("--older-than", help="Keep what is younger, e.g. 90m, 24h.")] = "24h",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
) -> None:
    """Delete artifacts that no submission, job, report, upload or data set refers to any more."""
    from datetime import timedelta

    from auditor.cli.options import local_services, parse_duration

    age = timedelta(seconds=parse_duration(older_than, option="--older-than") or 0.0)
    found = local_services().garbage.collect(age, dry_run=dry_run)
    verb = "would be deleted" if dry_run else "deleted"
    typer.echo(f"{found.deleted} artifacts {verb} ({found.freed_bytes / 2**20:.1f} MiB), {found.kept} kept", err=True)
