"""One repository for every record of `auditor.service.accounts`: its fields are the columns of its row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from enum import Enum
from typing import Any, Generic, TypeVar, cast

from sqlalchemy import CursorResult, Select, and_, delete, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from auditor.contracts.people import Role
from auditor.db.models import Base
from auditor.errors import Conflict, NotFound
from auditor.service.accounts import Record
from auditor.service.records import Place
from auditor.service.repositories import GIVEN

R = TypeVar("R", bound=Record)

_READ: Mapping[str, Callable[[Any], Any]] = {"role": Role, "scopes": tuple}
"""Columns whose value in Python is not what JSON or SQL gives."""


class SqlTable(Generic[R]):
    """Records in SQL.

    Args:
        session: the open transaction.
        record: class of the records.
        row: class of their rows.
        team_id: whose rows exist; None: everyone's.
    """

    def __init__(self, session: Session, record: type[R], row: type[Base], team_id: str | None) -> None:
        self._session = session
        self._record = record
        self._row: Any = row
        self._team_id = team_id
        self._owner = getattr(row, record.OWNER)
        self._names = tuple(item.name for item in fields(record))

    def add(self, record: R) -> None:
        """Insert."""
        if self._team_id not in (None, getattr(record, record.OWNER)):
            raise AssertionError(f"a {record.NOUN} of another team")
        self._session.add(self._row(**{name: _plain(getattr(record, name)) for name in self._names}))
        try:
            self._session.flush()
        except IntegrityError:
            name = getattr(record, "name", "")
            raise Conflict(f"there is a {record.NOUN}{f' {name!r}' if name else ''} already") from None

    def get(self, record_id: str, *, lock: bool = False) -> R:
        """By id; `lock` holds the row against others who lock or change it, and lets rows be added that refer to it."""
        query = self._select({"id": record_id})
        found = self._first(query.with_for_update(key_share=True) if lock else query)
        if found is None:
            raise NotFound(f"there is no {self._record.NOUN} '{record_id}'")
        return found

    def find(self, **equal: Any) -> R | None:
        """The one with these values."""
        return self._first(self._select(equal).limit(1))

    def page(self, limit: int, after: Place | None = None, **equal: Any) -> Sequence[R]:
        """Newest first."""
        query = self._select(equal)
        if after is not None:
            query = query.where(after_place(self._row.created_at, self._row.id, after))
        query = query.order_by(self._row.created_at.desc(), self._row.id.desc()).limit(limit)
        return [self._record_of(row) for row in self._session.scalars(query)]

    def change(self, record_id: str, where: Mapping[str, Any] | None = None, **values: Any) -> bool:
        """Set fields, if the row is as `where` says."""
        query = update(self._row).where(self._row.id == record_id, *self._conditions(where or {}))
        try:
            return self._changed(query.values(**{name: _plain(value) for name, value in values.items()}))
        except IntegrityError:
            raise Conflict(f"there is a {self._record.NOUN} like this already") from None

    def remove(self, record_id: str, where: Mapping[str, Any] | None = None) -> bool:
        """Delete, if the row is as `where` says."""
        return self._changed(delete(self._row).where(self._row.id == record_id, *self._conditions(where or {})))

    def _select(self, equal: Mapping[str, Any]) -> Select[Any]:
        query: Select[Any] = select(self._row).where(*self._conditions(equal))
        return query.execution_options(populate_existing=True)

    def _first(self, query: Select[Any]) -> R | None:
        row = self._session.scalars(query).first()
        return None if row is None else self._record_of(row)

    def _conditions(self, equal: Mapping[str, Any]) -> list[Any]:
        found = [_has(getattr(self._row, name), value) for name, value in equal.items()]
        return found if self._team_id is None else [*found, self._owner == self._team_id]

    def _changed(self, change: Any) -> bool:
        result = self._session.execute(change.execution_options(synchronize_session=False))
        return cast(CursorResult[Any], result).rowcount == 1

    def _record_of(self, row: Any) -> R:
        values = {name: getattr(row, name) for name in self._names}
        return self._record(**{name: _READ[name](value) if name in _READ else value for name, value in values.items()})


def after_place(created_at: Any, row_id: Any, place: Place) -> Any:
    """Rows that come after `place` in a list that is newest first."""
    time, last = place
    return or_(created_at < time, and_(created_at == time, row_id < last))


def _has(column: Any, value: Any) -> Any:
    if isinstance(value, frozenset):
        return column.in_([_plain(item) for item in value])
    return column.is_not(None) if value is GIVEN else column == _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    return list(value) if isinstance(value, tuple) else value
