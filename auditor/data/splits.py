"""Splitting a labelled set by content, so that neither file order nor duplicates can blur the line."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from auditor.data.image_set import ImageSet
from auditor.errors import InvalidInput


def stratified_split(image_set: ImageSet, heldout_frac: float, seed: int) -> tuple[ImageSet, ImageSet]:
    """(fit, heldout): about `heldout_frac` of every class held out, at least one image per class on each side.

    Which images are held out depends on `seed` and on each image's pixels only, not on their order. Identical images
    of a class stay on one side together, so that nothing held out was also fitted to.

    Args:
        image_set: labelled.
        heldout_frac: share in (0, 1).
        seed: of the choice.

    Raises:
        InvalidInput: classes without two different images, all of them named.
    """
    if image_set.labels is None:
        raise ValueError("a stratified split needs labels")
    if not 0 < heldout_frac < 1:
        raise ValueError("heldout_frac must be in (0, 1)")
    keys = [hashlib.sha256(f"{seed}|".encode() + image.tobytes()).digest() for image in image_set.images]
    heldout = np.zeros(len(image_set), dtype=np.bool_)
    too_small = []
    for label in np.unique(image_set.labels):
        rows = np.flatnonzero(image_set.labels == label)
        chosen = _choose([keys[row] for row in rows], heldout_frac)
        if chosen is None:
            known = label < len(image_set.class_names)
            too_small.append(image_set.class_names[label] if known else str(label))
        else:
            heldout[rows[chosen]] = True
    if too_small:
        raise InvalidInput(
            f"{image_set.name}: these classes have no two different images, one to fit and one to hold out: "
            + ", ".join(too_small)
        )
    fit, held = image_set.select(~heldout), image_set.select(heldout)
    return replace(fit, name=f"{image_set.name}-fit"), replace(held, name=f"{image_set.name}-heldout")


def _choose(keys: list[bytes], frac: float) -> NDArray[np.bool_] | None:
    """Which images of one class to hold out; None when all are identical."""
    contents = sorted(set(keys))
    if len(contents) < 2:
        return None
    wanted = max(1, round(frac * len(keys)))
    taken: set[bytes] = set()
    n = 0
    for content in contents[:-1]:
        if n >= wanted:
            break
        taken.add(content)
        n += keys.count(content)
    return np.array([key in taken for key in keys], dtype=np.bool_)
