"""The pictures of a report: reconstructions beside the nearest public image, as small PNG files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from auditor.contracts.outcome import ClassRow
from auditor.contracts.report import AuditReport, Gallery, GalleryRow
from auditor.contracts.submission import TargetCard
from auditor.data.image_set import ImageSet

MAX_CLASSES = 24
"""Classes shown per attack: those with most accepted pictures first."""
MAX_PER_CLASS = 5


@dataclass(frozen=True)
class GalleryEntry:
    """One attack's pictures.

    Attributes:
        key: the attack's key.
        images: (N, C, H, W) uint8.
        labels: (N,) int64.
        accepted: (N,) bool, by evaluator and judge.
        originals: (N, C, H, W) uint8 the private images behind them, where each was made from one.
    """

    key: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    accepted: NDArray[np.bool_]
    originals: NDArray[np.uint8] | None = None


def build_gallery(
    entries: Sequence[GalleryEntry],
    public: ImageSet | None,
    card: TargetCard,
    class_names: Sequence[str],
    before: AuditReport | None = None,
) -> Gallery:
    """Rows by attack and class; the nearest public image shows what the prior may simply have remembered.

    After a repair the classes are those whose pictures the audit `before` it shows, so that people see what became of
    them, and not only where the repaired model leaks most.
    """
    chosen = {} if before is None else {outcome.key: _accepted_most(outcome.per_class) for outcome in before.attacks}
    shape = (card.input.channels, card.input.height, card.input.width)
    reference = None if public is None else (public.batch(shape).images * 255).round()
    rows = []
    for entry in entries:
        for label in _shown_classes(entry, chosen.get(entry.key, ())):
            index = np.flatnonzero(entry.labels == label)[:MAX_PER_CLASS]
            rows.append(
                GalleryRow(
                    label=int(label),
                    name=class_names[label],
                    attack=entry.key,
                    reconstructions_png=tuple(encode_png(entry.images[i]) for i in index),
                    nearest_public_png=None
                    if reference is None
                    else encode_png(nearest(entry.images[index[0]], reference)),
                    accepted=tuple(bool(entry.accepted[i]) for i in index),
                    originals_png=()
                    if entry.originals is None
                    else tuple(encode_png(entry.originals[i]) for i in index),
                )
            )
    return Gallery(rows=tuple(rows))


def _shown_classes(entry: GalleryEntry, chosen: Sequence[int] = ()) -> list[int]:
    """Those chosen that were attacked, and then the others: those with most accepted pictures first."""
    classes = np.unique(entry.labels)
    hits = np.array([-int(entry.accepted[entry.labels == label].sum()) for label in classes])
    own = [int(classes[i]) for i in np.lexsort((classes, hits))]
    return list(dict.fromkeys([*(label for label in chosen if label in own), *own]))[:MAX_CLASSES]


def _accepted_most(rows: Sequence[ClassRow]) -> list[int]:
    """The classes of a report in the order of its gallery."""
    return [row.label for row in sorted(rows, key=lambda row: (-round(row.both * row.n), row.label))]


def nearest(image: NDArray[np.uint8], reference: Tensor) -> NDArray[np.uint8]:
    """The row of `reference` ((M, C, H, W), 0..255) nearest to `image` ((C, H, W)) in pixels."""
    query = torch.from_numpy(image.reshape(1, -1)).float()
    found: NDArray[np.uint8] = reference[int(torch.cdist(query, reference.flatten(1)).argmin())].to(torch.uint8).numpy()
    return found


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """(C, H, W) uint8 to a PNG file made from the array alone, so it carries no metadata."""
    pixels = image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG")
    return buffer.getvalue()
