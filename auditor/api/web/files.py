"""The few files that pages load, all of our own server, each with an address that changes with its content."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from auditor.errors import NotFound
from auditor.report.page import TEMPLATES as REPORT

_STATIC = Path(__file__).parent / "static"
_FILES = {
    "report.css": (REPORT / "style.css", "text/css"),
    "pages.css": (_STATIC / "pages.css", "text/css"),
    "htmx.min.js": (_STATIC / "htmx.min.js", "text/javascript"),
}


@cache
def static_file(name: str) -> tuple[bytes, str]:
    """Content and media type; raises NotFound for every other name."""
    if name not in _FILES:
        raise NotFound(f"there is no file '{name}'")
    path, media_type = _FILES[name]
    return path.read_bytes(), media_type


def static_address(name: str) -> str:
    """Where a page finds it."""
    return f"/static/{name}?{hashlib.sha256(static_file(name)[0]).hexdigest()[:12]}"
