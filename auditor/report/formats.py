"""One table of output formats: `render(report, "html")`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from types import MappingProxyType

from auditor.contracts.repair import RepairReport
from auditor.contracts.report import AuditReport, Gallery
from auditor.errors import InvalidInput, UnknownName
from auditor.report.display import Display


def _json(report: AuditReport | RepairReport, _: Gallery | None, __: Display) -> str:
    from auditor.report.render_json import render_json

    return render_json(report)


def _html(report: AuditReport | RepairReport, gallery: Gallery | None, _: Display) -> str:
    if isinstance(report, RepairReport):
        from auditor.report.render_repair_html import render_repair_html

        return render_repair_html(report)
    from auditor.report.render_html import render_html

    return render_html(report, gallery)


def _markdown(report: AuditReport | RepairReport, _: Gallery | None, __: Display) -> str:
    if isinstance(report, RepairReport):
        from auditor.report.render_repair_markdown import render_repair_markdown

        return render_repair_markdown(report)
    from auditor.report.render_markdown import render_markdown

    return render_markdown(report)


def _sarif(report: AuditReport | RepairReport, _: Gallery | None, display: Display) -> str:
    from auditor.report.render_sarif import render_sarif

    return render_sarif(_audit(report, "sarif"), display)


def _junit(report: AuditReport | RepairReport, _: Gallery | None, __: Display) -> str:
    from auditor.report.render_junit import render_junit

    return render_junit(_audit(report, "junit"))


def _gitlab(report: AuditReport | RepairReport, _: Gallery | None, display: Display) -> str:
    from auditor.report.render_gitlab import render_gitlab

    return render_gitlab(_audit(report, "gitlab"), display)


Renderer = Callable[[AuditReport | RepairReport, Gallery | None, Display], str]

FORMATS: Mapping[str, Renderer] = MappingProxyType(
    {"json": _json, "html": _html, "markdown": _markdown, "sarif": _sarif, "junit": _junit, "gitlab": _gitlab}
)
"""Format name to renderer. A new format is one entry; its module is imported when it is first asked for."""

REPAIR_FORMATS = ("json", "html", "markdown")
"""Formats of a repair report; the others are about the findings of one audit."""


def format_named(name: str) -> str:
    """`name` if it is a format; `md` and `htm` are understood. Raises UnknownName with the known ones."""
    known = {"md": "markdown", "htm": "html"}.get(name, name)
    if known not in FORMATS:
        close = difflib.get_close_matches(name, FORMATS, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise UnknownName(
            f"unknown format '{name}'.{hint} Known: {', '.join(FORMATS)}.", remedy="Choose one of the known formats."
        )
    return known


def render(
    report: AuditReport | RepairReport,
    fmt: str,
    gallery: Gallery | None = None,
    display: Display | None = None,
    *,
    stored: AuditReport | RepairReport | None = None,
) -> str:
    """`report` as text. The gallery is used by formats that can show pictures; no format changes a verdict.

    JSON is what is read back: it is the report as `stored`, before the gate decided anew, with the decision in `gate`.
    """
    chosen = format_named(fmt)
    if chosen == "json" and isinstance(stored, AuditReport) and isinstance(report, AuditReport):
        report = stored.model_copy(update={"gate": report.gate})
    return FORMATS[chosen](report, gallery, display or Display())


def _audit(report: AuditReport | RepairReport, fmt: str) -> AuditReport:
    if isinstance(report, AuditReport):
        return report
    after = (report.after_report_id or report.before_report_id)[:12]
    raise InvalidInput(
        f"there is no {fmt} of a repair, only of an audit",
        remedy=f"`auditor report {after} -f {fmt}` writes that of the audit after it.",
    )
