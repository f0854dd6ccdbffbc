"""`auditor waive`: write down who answers for a finding, why, and until when."""

from __future__ import annotations

import re
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from auditor.cli.gating import today
from auditor.cli.report import write_whole
from auditor.contracts.policy import RiskLevel
from auditor.errors import InvalidInput

if TYPE_CHECKING:
    from auditor.contracts.waiver import Waiver, WaiverFile

_HEADER = """\
# Findings that somebody answers for (docs/ci.md). Commit it beside the model; `auditor waive` adds to it.
version: 1
waivers:
"""


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command("waive")(waive)


def waive(
    finding: Annotated[str, typer.Argument(help="attack:KEY, class:NAME or rule:E3.x, as the gate names it.")],
    reason: Annotated[str, typer.Option("--reason", help="Why the leak is accepted.")],
    expires: Annotated[
        str, typer.Option("--expires", help="Last day on which it counts: 2027-01-31, or 90d from now.")
    ],
    approver: Annotated[str, typer.Option("--approver", help="Who answers for it.")],
    path: Annotated[Path, typer.Option("-w", "--waivers", metavar="FILE", help="File to add it to; made if missing.")],
    model: Annotated[str | None, typer.Option("--model", help="Model name; default: that of the manifest.")] = None,
    config: Annotated[
        Path | None, typer.Option("-c", "--config", help="Manifest; default: auditor.yaml in this folder.")
    ] = None,
    name: Annotated[str | None, typer.Option("--id", help="Id of the waiver; default: finding and day.")] = None,
    up_to: Annotated[
        RiskLevel, typer.Option("--up-to", help="A finding above this level fails in spite of the waiver.")
    ] = RiskLevel.HIGH,
) -> None:
    """Add a waiver to a file, for one model. It changes no number; the gate says "pass with waivers"."""
    from auditor.contracts.waiver import WaiverFile
    from auditor.risk.waivers import read_waivers

    before = read_waivers(path) if path.exists() else WaiverFile()
    now = today()
    waiver = _checked(
        before,
        {
            "id": name or _free_id(before, finding, now),
            "finding": finding,
            "model": model or _model_name(config),
            "reason": reason,
            "approver": approver,
            "created": now.isoformat(),
            "expires": _day(expires, now).isoformat(),
            "up_to": str(up_to),
        },
    )
    write_whole(path, _added(path, before, waiver))
    typer.echo(waiver.id)
    typer.echo(f"wrote {path}: {waiver.finding} of {waiver.model}, until {waiver.expires}", err=True)


def _checked(before: WaiverFile, given: dict[str, str]) -> Waiver:
    """The new waiver, valid beside those there are; InvalidInput with every problem."""
    from pydantic import ValidationError

    from auditor.contracts.base import as_written
    from auditor.contracts.problems import problems_in
    from auditor.contracts.waiver import FINDING_FORMS, Waiver, WaiverFile

    try:
        waiver = as_written(Waiver, given)
        as_written(WaiverFile, before.model_copy(update={"waivers": (*before.waivers, waiver)}).model_dump(mode="json"))
    except ValidationError as error:
        raise InvalidInput(
            problems_in(error, Waiver),
            remedy=f"A finding is {FINDING_FORMS}; `auditor gate` names those that fail. Nothing was written.",
        ) from None
    return waiver


def _day(text: str, now: date) -> date:
    days = re.fullmatch(r"(\d{1,5})d", text.strip())
    try:
        day = now + timedelta(days=int(days[1])) if days else date.fromisoformat(text.strip())
    except (ValueError, OverflowError):
        raise InvalidInput(
            f"--expires: '{text}' is neither a day such as 2027-01-31 nor a number of days (90d)"
        ) from None
    if day <= now:
        raise InvalidInput(f"--expires: {day} is not in the future")
    return day


def _model_name(config: Path | None) -> str:
    from auditor.contracts.manifest_file import read_manifest

    path = config or Path("auditor.yaml")
    if not path.is_file():
        raise InvalidInput("which model is it for?", remedy="Name it with --model, or its manifest with -c.")
    return read_manifest(path).model.name


def _free_id(before: WaiverFile, finding: str, now: date) -> str:
    """`attack-ppa-2026-01-31`, numbered where that is taken."""
    taken = {waiver.id for waiver in before.waivers}
    stem = f"{re.sub(r'[^A-Za-z0-9._-]+', '-', finding).strip('-')[:60]}-{now}"
    names = (stem, *(f"{stem}-{nth}" for nth in range(2, len(taken) + 3)))
    return next(name for name in names if name not in taken)


def _added(path: Path, before: WaiverFile, waiver: Waiver) -> str:
    """The file's text with the waiver at its end; comments stay where the list is written line by line."""
    import yaml

    entry = yaml.safe_dump([waiver.model_dump(mode="json")], sort_keys=False, allow_unicode=True)
    indented = "".join(f"  {line}\n" for line in entry.splitlines())
    text = path.read_text(encoding="utf-8").rstrip("\n") + "\n" + indented if path.exists() else _HEADER + indented
    after = before.model_copy(update={"waivers": (*before.waivers, waiver)})
    if _reads_as(text, after):
        return text
    return yaml.safe_dump(after.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _reads_as(text: str, wanted: WaiverFile) -> bool:
    import yaml
    from pydantic import ValidationError

    from auditor.contracts.base import as_written
    from auditor.contracts.waiver import WaiverFile

    try:
        return as_written(WaiverFile, yaml.safe_load(text)) == wanted
    except (yaml.YAMLError, ValidationError):
        return False
