"""Limits on what is read from strangers' data, and the choice of a few images among many."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MIN_SIDE = 8
"""Pixels; a smaller image carries nothing a classifier could have learned from it."""
MAX_IMAGE_PIXELS = 50_000_000
"""Pixels of one image, by its header, before it is decoded."""
MAX_TOTAL_BYTES = 6 << 30
"""Bytes of all decoded images of one set."""
MAX_FILES = 2_000_000
"""Files in an image folder."""


def choose_by_content(groups: Sequence[object], digests: Sequence[bytes], limit: int) -> NDArray[np.int64]:
    """Sorted positions of at most `limit` items per group: those with the smallest content digests.

    The choice depends on the contents alone, not on file names or order; equal contents are taken in the order given.
    """
    chosen: dict[object, list[int]] = {}
    for position in sorted(range(len(groups)), key=lambda index: (digests[index], index)):
        taken = chosen.setdefault(groups[position], [])
        if len(taken) < limit:
            taken.append(position)
    return np.array(sorted(position for taken in chosen.values() for position in taken), dtype=np.int64)
