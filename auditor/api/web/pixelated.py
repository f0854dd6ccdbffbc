"""Previews of pictures that nobody asked for: so few squares that they show no one, made on the server."""

from __future__ import annotations

import io

from auditor.contracts.report import Gallery
from auditor.report.page import PNG_HEADER, picture_source

SIDE = 5
"""Squares along each side."""


def pixelated(gallery: Gallery) -> dict[str, str]:
    """Data URL by the picture's name (`0-reconstruction-1`); what cannot be read as a PNG has none."""
    named = {
        f"{index}-{kind}-{number}": data
        for index, row in enumerate(gallery.rows)
        for kind, pictures in (
            ("reconstruction", row.reconstructions_png),
            ("nearest-public", () if row.nearest_public_png is None else (row.nearest_public_png,)),
            ("original", row.originals_png),
        )
        for number, data in enumerate(pictures)
    }
    found = {name: picture_source(_coarse(data)) for name, data in named.items()}
    return {name: source for name, source in found.items() if source is not None}


def _coarse(data: bytes) -> bytes | None:
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
    return buffer.getvalue()
