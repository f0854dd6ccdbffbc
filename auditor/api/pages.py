"""Lists in parts: `after` is the place of the last row one has seen, so rows that come meanwhile shift nothing."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, TypeVar

from fastapi import Query

from auditor.contracts.service import Page
from auditor.errors import InvalidInput
from auditor.service.records import Place

R = TypeVar("R")
V = TypeVar("V")

Limit = Annotated[int, Query(ge=1, le=200, description="How many at most.")]
After = Annotated[str | None, Query(max_length=200, description="`next` of the part before.")]
_ID = re.compile(r"[0-9a-z]{1,64}")


def page_of(
    read: Callable[[int, Place | None], Sequence[R]],
    view: Callable[[R], V],
    place: Callable[[R], Place],
    limit: int,
    after: str | None,
) -> Page[V]:
    """One part of a list.

    Args:
        read: rows, newest first: how many, and after which place.
        view: a row as it is shown.
        place: where a row stands.
        limit: rows of this part.
        after: cursor from the part before.
    """
    rows = read(limit + 1, None if after is None else _place(after))
    more = len(rows) > limit
    shown = rows[:limit]
    cursor = _cursor(place(shown[-1])) if more else None
    return Page(items=tuple(view(row) for row in shown), next=cursor)


def _cursor(place: Place) -> str:
    return base64.urlsafe_b64encode(f"{place[0].isoformat()} {place[1]}".encode()).decode()


def _place(cursor: str) -> Place:
    try:
        time, _, last = base64.b64decode(cursor, altchars=b"-_", validate=True).decode("ascii").partition(" ")
        moment = datetime.fromisoformat(time)
        place = (moment.astimezone(UTC), last) if moment.tzinfo is not None else None
    except (ValueError, OverflowError):
        place = None
    if place is None or not _ID.fullmatch(place[1]):
        raise InvalidInput("query.after: not the `next` of another part", remedy="Leave it out for the first part.")
    return place
