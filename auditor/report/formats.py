"""One table of output formats: `render(report, "html")`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from types import MappingProxyType

from auditor.contracts.repair import RepairReport
from auditor.contracts.report import AuditReport, Gallery
from auditor.errors import UnknownName


def _json(report: AuditReport | RepairReport, _: Gallery | None) -> str:
    from auditor.report.render_json import render_json

    return render_json(report)


def _html(report: AuditReport | RepairReport, gallery: Gallery | None) -> str:
    if isinstance(report, RepairReport):
        from auditor.report.render_repair_html import render_repair_html

        return render_repair_html(report)
    from auditor.report.render_html import render_html

    return render_html(report, gallery)


def _markdown(report: AuditReport | RepairReport, _: Gallery | None) -> str:
    if isinstance(report, RepairReport):
        from auditor.report.render_repair_markdown import render_repair_markdown

        return render_repair_markdown(report)
    from auditor.report.render_markdown import render_markdown

    return render_markdown(report)


Renderer = Callable[[AuditReport | RepairReport, Gallery | None], str]

FORMATS: Mapping[str, Renderer] = MappingProxyType({"json": _json, "html": _html, "markdown": _markdown})
"""Format name to renderer. A new format is one entry; its module is imported when it is first asked for."""


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


def render(report: AuditReport | RepairReport, fmt: str, gallery: Gallery | None = None) -> str:
    """`report` as text. The gallery is used by formats that can show pictures; no format changes a verdict."""
    return FORMATS[format_named(fmt)](report, gallery)
