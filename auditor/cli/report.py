"""`auditor convert` and `auditor diff`: stored reports in other formats, and two of them side by side."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from auditor.cli.gating import gated, policy_of, read_gating, read_or_find
from auditor.cli.options import AnchorOption, BaselineOption, MinSeverityOption, WaiversOption, display_of, services
from auditor.contracts.policy import RiskLevel
from auditor.contracts.repair import PairedDifference
from auditor.contracts.report import AuditReport
from auditor.contracts.scores import Measured
from auditor.errors import AuditorError, ExitCode, InvalidInput, StorageFailure, UnknownName

DIFF_FORMATS = ("table", "json", "markdown")

_SUFFIXES = {
    ".json": "json",
    ".html": "html",
    ".htm": "html",
    ".md": "markdown",
    ".markdown": "markdown",
    ".sarif": "sarif",
    ".xml": "junit",
}


def register(app: typer.Typer) -> None:
    """Add `convert` and `diff` to the command line."""
    app.command("convert")(convert)
    app.command("diff")(diff)


def convert(
    report_path: Annotated[Path, typer.Argument(metavar="REPORT", help="JSON report of an audit or of a repair.")],
    fmt: Annotated[
        str | None,
        typer.Option("-f", "--format", help="json, html, markdown, sarif, junit, gitlab; default: by --out."),
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="File to write; default: stdout.")] = None,
    gallery_path: Annotated[
        Path | None,
        typer.Option("--gallery", help="JSON gallery of the same audit: embeds its pictures in the HTML."),
    ] = None,
    waivers: WaiversOption = None,
    baseline: BaselineOption = None,
    min_severity: MinSeverityOption = RiskLevel.LOW,
    anchor: AnchorOption = None,
) -> None:
    """Write a stored report in another format. The exit code says nothing about its verdict: use `auditor gate`."""
    from auditor.contracts.report import AuditReport
    from auditor.report.formats import format_named, render
    from auditor.report.read import read_any_report, read_gallery

    chosen = format_named(fmt if fmt is not None else format_by_name(out))
    display, gating = display_of(anchor, min_severity), read_gating(waivers, baseline)
    stored = report = read_any_report(report_path)
    if isinstance(report, AuditReport):
        if gating.wants_approved:
            gating = gating.looked_up(services(), report.target.name)
        policy = policy_of(report, report_path)
        report = gated(report, gating, None if policy is report.policy else policy)
    elif gating.given:
        raise InvalidInput(
            "waivers and baselines decide about an audit, and this is the report of a repair",
            remedy="Leave --waivers and --baseline out, or give the report of the audit after the repair.",
        )
    gallery = None
    if gallery_path is not None:
        if chosen != "html" or not isinstance(report, AuditReport):
            raise InvalidInput(
                "--gallery is for the HTML of an audit report; no other format shows pictures",
                remedy="Leave --gallery out, or choose -f html.",
            )
        gallery = read_gallery(gallery_path, report)
    text = render(report, chosen, gallery, display, stored=stored)
    if out is None or str(out) == "-":
        sys.stdout.write(text)
        return
    write_whole(out, text)
    typer.echo(f"wrote {out}", err=True)


def format_by_name(out: Path | None) -> str:
    """The format that a file's suffix asks for; raises InvalidInput where it asks for none."""
    if out is not None and out.suffix.lower() in _SUFFIXES:
        return _SUFFIXES[out.suffix.lower()]
    raise InvalidInput(
        "no format was given", remedy="Choose one with -f, or name the file .html, .md, .json, .sarif, .xml."
    )


def write_whole(path: Path, text: str) -> None:
    """Write all of `text` or nothing: a full disk never leaves half a report behind."""
    try:
        if path.exists() and not path.is_file():  # a pipe or a device cannot be replaced
            path.write_text(text, encoding="utf-8")
            return
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
                stream.write(text)
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StorageFailure(
            f"{path} could not be written: {error}", remedy="Check the folder and its space."
        ) from None


def write_outputs(outputs: Sequence[tuple[str, Path]], text: Callable[[str], str], code: ExitCode) -> ExitCode:
    """Write the files asked for, after the verdict was printed; a file that fails never hides a failed gate."""
    for kind, path in outputs:
        try:
            write_whole(path, text(kind))
        except AuditorError as error:
            typer.echo(f"error: {error.message}", err=True)
            code = code if code is ExitCode.GATE_FAILED else error.exit_code
        else:
            typer.echo(f"wrote {path}", err=True)
    return code


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def diff(
    before_path: Annotated[Path, typer.Argument(metavar="A", help="First audit: JSON report, or id of a stored one.")],
    after_path: Annotated[Path, typer.Argument(metavar="B", help="Second audit: JSON report, or id of a stored one.")],
    force: Annotated[
        bool, typer.Option("--force", help="Compare although the plans differ; the difference may be the plan's.")
    ] = False,
    fmt: Annotated[str, typer.Option("-f", "--format", help="table, json or markdown.")] = "table",
) -> None:
    """Compare two audits class by class, A minus B, with paired intervals: one over 0 proves that B leaks less."""
    from auditor.evaluation.paired import compare_reports
    from auditor.risk.gate import by_its_evidence

    if fmt not in DIFF_FORMATS:
        raise UnknownName(f"unknown format '{fmt}'. Known: {', '.join(DIFF_FORMATS)}.", remedy="Choose one of these.")
    before, after = (by_its_evidence(read_or_find(path)) for path in (before_path, after_path))
    _comparable(before, after, force=force)
    rows = compare_reports(before, after)
    if not rows:
        raise InvalidInput("the two reports have no attack in common", remedy="Run both audits with one plan.")
    for line in _unpaired(before, after):
        typer.echo(f"warning: {line}", err=True)
    sys.stdout.write(_diff_text(before, after, rows, fmt))


def _unpaired(before: AuditReport, after: AuditReport) -> list[str]:
    """Attacks that one of the reports has alone, with what they found."""
    from auditor.report.wording import score_text

    lines = []
    for one, other, name, missing in ((before, after, "A", "B"), (after, before, "B", "A")):
        keys = {outcome.key for outcome in other.attacks}
        lines += [
            f"{outcome.key} stands in {name} alone (lift {score_text(outcome.score('lift'))}): what it shows is not in "
            f"the comparison, since {missing} was not attacked by it"
            for outcome in one.attacks
            if outcome.key not in keys
        ]
    return lines


def _comparable(before: AuditReport, after: AuditReport, *, force: bool) -> None:
    from auditor.evaluation.paired import plan_differences

    if before.target.n_classes != after.target.n_classes:
        raise InvalidInput(
            f"the models have {before.target.n_classes} and {after.target.n_classes} classes: they cannot be paired",
            remedy="Compare audits of models with the same classes.",
        )
    changed = plan_differences(before, after)
    if changed and not force:
        raise InvalidInput(
            [f"the plans differ: {line}" for line in changed],
            remedy="A difference between these audits may come from the plan and not from the model. Run both with "
            "one plan, or use --force and keep that in mind.",
        )
    for line in changed:
        typer.echo(f"warning: the plans differ: {line}", err=True)
    if before.provenance.data_digest != after.provenance.data_digest:
        typer.echo("warning: the two audits used different data", err=True)
    for what in ("evaluator", "judge"):
        if _digest(getattr(before, what)) != _digest(getattr(after, what)):
            typer.echo(f"warning: the two audits had different {what}s: the rates may differ by that", err=True)
    if before.provenance.code_digest != after.provenance.code_digest:
        typer.echo("warning: the two audits ran on different versions of the auditor", err=True)


def _digest(card: object) -> str | None:
    return getattr(card, "digest", None)


def _diff_text(before: AuditReport, after: AuditReport, rows: Sequence[PairedDifference], fmt: str) -> str:
    from auditor.report.wording import headline, score_text

    if fmt == "json":
        answer = {
            **{
                name: {
                    "id": report.id,
                    "verdict": report.verdict.verdict,
                    "level": report.verdict.level,
                    "accuracy": report.target_accuracy.model_dump(mode="json"),
                }
                for name, report in (("before", before), ("after", after))
            },
            "differences": [row.model_dump(mode="json") for row in rows],
        }
        return json.dumps(answer, indent=2, ensure_ascii=False) + "\n"
    head = ("attack", "metric", "A", "B", "A minus B", "reading")
    cells = [
        (
            row.attack,
            row.metric,
            *(score_text(score) for score in (row.before, row.after, row.difference)),
            _reading(row),
        )
        for row in rows
    ]
    summary = "   ".join(
        f"{name} {report.target.name}: {headline(report.verdict)}; accuracy {score_text(report.target_accuracy)}"
        for name, report in (("A", before), ("B", after))
    )
    if fmt == "markdown":
        from auditor.report.markdown import plain, table

        return "\n".join([f"**{plain(summary)}**", "", *table(head, cells, numeric_from=2)]) + "\n"
    widths = [max(len(line[column]) for line in (head, *cells)) for column in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in (head, *cells)
    ]
    return "\n".join([*lines, "", summary]) + "\n"


def _reading(row: PairedDifference) -> str:
    if not isinstance(row.difference, Measured):
        return row.difference.reason
    if row.difference.low > 0:
        return "B leaks less"
    return "B leaks more" if row.difference.high < 0 else "no proven difference"
