"""The records of people and teams in memory, by the same contract as `auditor.db.tables`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Generic, TypeVar

from auditor.errors import Conflict, NotFound
from auditor.service.accounts import Record
from auditor.service.records import Place
from auditor.service.repositories import GIVEN

R = TypeVar("R", bound=Record)
T = TypeVar("T")


class InMemoryTable(Generic[R]):
    """Records in a dictionary.

    Args:
        rows: by id.
        record: class of the records.
        team_id: whose rows exist; None: everyone's.
    """

    def __init__(self, rows: dict[str, R], record: type[R], team_id: str | None) -> None:
        self._rows = rows
        self._record = record
        self._team_id = team_id

    def add(self, record: R) -> None:
        """Insert."""
        if self._team_id not in (None, getattr(record, record.OWNER)):
            raise AssertionError(f"a {record.NOUN} of another team")
        if record.id in self._rows or self._is_taken(record):
            name = getattr(record, "name", "")
            raise Conflict(f"there is a {record.NOUN}{f' {name!r}' if name else ''} already")
        self._rows[record.id] = record

    def get(self, record_id: str, *, lock: bool = False) -> R:
        """By id; a transaction holds everything anyway."""
        found = self.find(id=record_id)
        if found is None:
            raise NotFound(f"there is no {self._record.NOUN} '{record_id}'")
        return found

    def find(self, **equal: Any) -> R | None:
        """The one with these values."""
        return next(iter(self._matching(equal)), None)

    def page(self, limit: int, after: Place | None = None, **equal: Any) -> Sequence[R]:
        """Newest first."""
        return page_of(self._matching(equal), limit, after, lambda row: (row.created_at, row.id))

    def change(self, record_id: str, where: Mapping[str, Any] | None = None, **values: Any) -> bool:
        """Set fields, if the row is as `where` says."""
        found = self.find(id=record_id, **(where or {}))
        if found is None:
            return False
        changed = replace(found, **values)
        if self._is_taken(changed):
            raise Conflict(f"there is a {found.NOUN} like this already")
        self._rows[record_id] = changed
        return True

    def remove(self, record_id: str, where: Mapping[str, Any] | None = None) -> bool:
        """Delete, if the row is as `where` says."""
        return self.find(id=record_id, **(where or {})) is not None and self._rows.pop(record_id) is not None

    def _is_taken(self, record: R) -> bool:
        """Whether another row has what no two may share."""
        keys = [tuple(getattr(record, name) for name in names) for names in record.UNIQUE]
        others = [row for row in self._rows.values() if row.id != record.id]
        return any(
            None not in key and any(key == tuple(getattr(row, name) for name in names) for row in others)
            for key, names in zip(keys, record.UNIQUE, strict=True)
        )

    def _matching(self, equal: Mapping[str, Any]) -> list[R]:
        own = (row for row in self._rows.values() if self._team_id in (None, getattr(row, row.OWNER)))
        return [row for row in own if all(_has(getattr(row, name), value) for name, value in equal.items())]


def _has(found: Any, value: Any) -> bool:
    if isinstance(value, frozenset):
        return found in value
    return found is not None if value is GIVEN else bool(found == value)


def page_of(rows: Sequence[T], limit: int, after: Place | None, place: Callable[[T], Place]) -> Sequence[T]:
    """Newest first, those that come after `after`."""
    ordered = sorted(rows, key=place, reverse=True)
    return [row for row in ordered if after is None or place(row) < after][:limit]
