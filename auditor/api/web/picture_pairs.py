"""What the same attack rebuilt of the same class in two audits, side by side."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial

from auditor.api.references import reference_of
from auditor.api.routes.reports import pictures_of, signed
from auditor.api.server import Caller
from auditor.api.web.pixelated import coarse
from auditor.contracts.people import Role
from auditor.contracts.report import Gallery, GalleryRow
from auditor.service.records import StoredReport
from auditor.service.reports import unless_gone

_Key = tuple[str, int, str]
PREVIEWED = 4
"""Classes that the page of a repair or of a comparison shows itself."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One picture.

    Attributes:
        name: on the page, `before-0-reconstruction-1`.
        kind: `reconstruction`, `nearest-public` or `original`.
        accepted: by evaluator and judge; None: it is no reconstruction.
        clear: its address, where it was asked for.
        coarse: a few squares of it, where it was not.
    """

    name: str
    kind: str
    accepted: bool | None
    clear: str | None
    coarse: str | None


@dataclass(frozen=True, slots=True)
class Pair:
    """One class under one attack; a side is None where that audit kept no picture of it."""

    attack: str
    label: int
    name: str
    before: tuple[Shown, ...] | None
    after: tuple[Shown, ...] | None


@dataclass(frozen=True, slots=True)
class PicturePairs:
    """The pictures of two audits.

    Attributes:
        before: reference of the first audit.
        after: of the second.
        without: the audits that have no pictures (any more), or none that can be read.
        pairs: those of the first audit in its order, then what the second has alone.
        n_pairs: how many there are, shown or not.
    """

    before: str
    after: str
    without: tuple[str, ...]
    pairs: tuple[Pair, ...]
    n_pairs: int


def may_look(caller: Caller) -> bool:
    """Whether pictures may be shown to whoever asks at all."""
    return caller.me.user.role.rank >= Role.REVIEWER.rank


def pair_pictures(
    caller: Caller,
    before: StoredReport,
    after: StoredReport,
    *,
    asked: Collection[str] = (),
    most: int | None = None,
) -> PicturePairs:
    """The pictures of both, coarse but for those that were asked for.

    Args:
        caller: a reviewer; the addresses work for them alone.
        before: the first audit.
        after: the second.
        asked: names of pictures.
        most: pairs to show; None: all.
    """
    sides = {"before": before, "after": after}
    audits = caller.services.audits
    galleries = {side: unless_gone(partial(audits.gallery_of, entry)) for side, entry in sides.items()}
    rows = {side: _by_class(gallery) for side, gallery in galleries.items()}
    keys = list(dict.fromkeys([*rows["before"], *rows["after"]]))

    def shown(side: str, key: _Key) -> tuple[Shown, ...] | None:
        if key not in rows[side]:
            return None
        index, row = rows[side][key]
        return tuple(_shown(caller, sides[side], side, index, row, asked))

    pairs = tuple(Pair(*key, before=shown("before", key), after=shown("after", key)) for key in keys[:most])
    without = tuple(side for side, gallery in galleries.items() if gallery is None)
    return PicturePairs(reference_of(before), reference_of(after), without, pairs, len(keys))


def _by_class(gallery: Gallery | None) -> dict[_Key, tuple[int, GalleryRow]]:
    """Place and row by attack and class; an index that is another person by now is another class."""
    rows = () if gallery is None else gallery.rows
    return {(row.attack, row.label, row.name): (number, row) for number, row in enumerate(rows)}


def _shown(
    caller: Caller, entry: StoredReport, side: str, index: int, row: GalleryRow, asked: Collection[str]
) -> Iterator[Shown]:
    for kind, number, data, accepted in pictures_of(row):
        picture = f"{index}-{kind}-{number}"
        name = f"{side}-{picture}"
        is_asked = name in asked
        yield Shown(
            name=name,
            kind=kind,
            accepted=accepted,
            clear=signed(caller, entry, picture) if is_asked else None,
            coarse=None if is_asked else coarse(data),
        )
