"""The environment of the self-contained pages: autoescape on, one style sheet, pinned by hash in the page's CSP."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditor.contracts.base import canonical_json
from auditor.report.wording import duration, percent, score_text, size, thousands

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"


def page_environment(*folders: Path) -> Environment:
    """The templates in `folders`, and after them those of the reports."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([*folders, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        score_text=score_text,
        percent=percent,
        thousands=thousands,
        duration=duration,
        size=size,
        json=canonical_json,
    )
    return environment


def render_page(template: str, **values: Any) -> str:
    """The page `template` as one file: no request, no script, and no style but its own."""
    from markupsafe import Markup

    style = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return (
        page_environment()
        .get_template(template)
        .render(
            style=Markup(style),  # noqa: S704  (our own file)
            style_hash=f"sha256-{digest}",
            **values,
        )
    )


def drawn(svg: str) -> Any:
    """A chart of ours as markup: `charts.py` escapes every name it is given."""
    from markupsafe import Markup

    return Markup(svg)  # noqa: S704


PNG_HEADER = b"\x89PNG\r\n\x1a\n"


def picture_source(png: bytes | None) -> str | None:
    """A data URL for a PNG; None for what is none, so that nothing but pictures is ever embedded."""
    if png is None or not png.startswith(PNG_HEADER):
        return None
    return "data:image/png;base64," + base64.b64encode(png).decode()
