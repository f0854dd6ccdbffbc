"""Previews of pictures that nobody asked for: so few squares that they show no one, made on the server."""

from __future__ import annotations

import io

from auditor.api.routes.reports import pictures_of
from auditor.contracts.report import Gallery
from auditor.report.page import PNG_HEADER, picture_source

SIDE = 5
"""Squares along each side."""


def pixelated(gallery: Gallery) -> dict[str, str]:
    """Data URL by the picture's name (`0-reconstruction-1`); what cannot be read as a PNG has none."""
    found = {
        f"{index}-{kind}-{number}": coarse(data)
        for index, row in enumerate(gallery.rows)
        for kind, number, data, _ in pictures_of(row)
    }
    return {name: source for name, source in found.items() if source is not None}


def coarse(data: bytes) -> str | None:
    """Data URL of a few squares; None for what cannot be read as a PNG."""
    from PIL import Image, UnidentifiedImageError

    if not data.startswith(PNG_HEADER):
        return None
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
            small = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        return None
    buffer = io.BytesIO()
    small.save(buffer, "PNG")
    return picture_source(buffer.getvalue())
