"""What several commands share: their options, how these are parsed, and the wired use-cases."""

from __future__ import annotations

import atexit
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from auditor.contracts.policy import RiskLevel
from auditor.errors import InvalidInput

if TYPE_CHECKING:
    from auditor.bootstrap import Services
    from auditor.client.remote import RemoteServices
    from auditor.report.display import Display
    from auditor.settings import Settings

    House = Services | RemoteServices

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
BudgetOption = Annotated[
    str | None,
    typer.Option("--budget", help="Cut the plan to the attacks with the best evidence for this time, e.g. 20m, 2h."),
]
PriorityOption = Annotated[
    int,
    typer.Option("--priority", min=-10, max=10, help="Of jobs that wait, those with a higher one go first."),
]
SplitOption = Annotated[
    str | None,
    typer.Option("--split", help="Cut the model at this layer and audit what a device would send to a server there."),
]
OutputOption = Annotated[
    list[str] | None,
    typer.Option("-o", "--output", help="FORMAT=FILE (json, html, markdown, sarif, junit, gitlab); may be repeated."),
]
FormatOption = Annotated[str, typer.Option("-f", "--format", help="What to print on stdout: table, json, markdown.")]
WaiversOption = Annotated[
    Path | None, typer.Option("--waivers", metavar="FILE", help="Waivers (YAML): findings somebody answers for.")
]
BaselineOption = Annotated[
    str | None,
    typer.Option(
        "--baseline",
        metavar="REPORT",
        help="Fail only on what is worse than this audit: a JSON report, a stored id, or `approved` (the one that the "
        "team approved on its server).",
    ),
]
MinSeverityOption = Annotated[
    RiskLevel,
    typer.Option("--min-severity", help="Leave lower findings out of SARIF and GitLab, but none that fails the gate."),
]
AnchorOption = Annotated[
    str | None,
    typer.Option("--anchor", metavar="PATH", help="Committed file that SARIF and GitLab point to; default: manifest."),
]
SummaryOption = Annotated[
    bool, typer.Option("--step-summary/--no-step-summary", help="Append the verdict to $GITHUB_STEP_SUMMARY if set.")
]
QuietOption = Annotated[bool, typer.Option("-q", "--quiet", help="No progress on stderr.")]


def services() -> House:
    """The use-cases: those of the server that commands talk to, where there is one, else those of this machine."""
    from auditor.client.credentials import credentials_of

    credentials = credentials_of(read_settings())
    if credentials is None:
        return local_services()
    from auditor.client.remote import RemoteServices

    remote = RemoteServices(credentials.url, credentials.token)
    atexit.register(remote.close)
    return remote


def local_services() -> Services:
    """The wired use-cases of this machine; closed when the program ends."""
    from auditor.bootstrap import build_services

    house = build_services(read_settings())
    atexit.register(house.close)
    house.verdicts.judge_anew()
    return house


def read_settings() -> Settings:
    """The settings of this process; a bad AUDITOR_ variable is an InvalidInput."""
    from pydantic import ValidationError

    from auditor.contracts.problems import problems_in
    from auditor.settings import Settings

    try:
        return Settings()
    except ValidationError as error:
        raise InvalidInput(problems_in(error, Settings), remedy="Correct the AUDITOR_ variables.") from None


def display_of(anchor: str | None, min_severity: RiskLevel, manifest: Path | None = None) -> Display:
    """How findings are shown: at the anchor, else at the manifest where that is in this folder."""
    from auditor.report.display import DEFAULT_ANCHOR, Display

    if anchor is None and manifest is not None and manifest.resolve().is_relative_to(Path.cwd()):
        anchor = str(manifest.resolve().relative_to(Path.cwd()))
    return Display(anchor or DEFAULT_ANCHOR, min_severity)


def parse_outputs(items: Sequence[str], known: Collection[str] | None = None) -> list[tuple[str, Path]]:
    """FORMAT=FILE pairs, all problems at once; `known` are the formats there are, default: those of an audit."""
    from auditor.report.formats import FORMATS

    known = FORMATS if known is None else known
    pairs, problems = [], []
    for item in items:
        fmt, sep, path = item.partition("=")
        if not sep or not path:
            problems.append(f"--output '{item}' is not FORMAT=FILE")
        elif fmt not in known:
            problems.append(f"--output: unknown format '{fmt}'. Known: {', '.join(known)}.")
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


def parse_duration(text: str | None, *, option: str = "--timeout") -> float | None:
    """Seconds in `90`, `90s`, `30m`, `2h`; `option` is named when it is none of these."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if match is None:
        raise InvalidInput(f"{option}: '{text}' is not a duration such as 90s, 30m or 2h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]
