"""Catalog[T]: an immutable table of named components, built from an explicit tuple."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Generic, Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from auditor.errors import InvalidInput, UnknownName


class Component(Protocol):
    """What a class needs to stand in a catalog: a name, a paper (or "own"), and a pydantic Config."""

    name: Any
    paper: Any
    Config: Any


T = TypeVar("T", bound=Component)


class Catalog(Generic[T]):
    """Named component classes in a fixed order.

    Args:
        kind: what the entries are, singular ("attack"); used in messages.
        entries: the classes themselves. Two entries of one name are a programming error.
    """

    def __init__(self, kind: str, entries: tuple[type[T], ...]) -> None:
        table = {entry.name: entry for entry in entries}
        if len(table) != len(entries):
            raise ValueError(f"two {kind}s share a name")
        self.kind = kind
        self._table: Mapping[str, type[T]] = MappingProxyType(table)

    def __iter__(self) -> Iterator[type[T]]:
        return iter(self._table.values())

    def __len__(self) -> int:
        return len(self._table)

    @property
    def names(self) -> tuple[str, ...]:
        """The known names, in catalog order."""
        return tuple(self._table)

    def get(self, name: str) -> type[T]:
        """The class registered under `name`; an unknown name lists the known ones."""
        try:
            return self._table[name]
        except KeyError:
            close = difflib.get_close_matches(name, self._table, n=1)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            raise UnknownName(f"unknown {self.kind} '{name}'.{hint} Known: {', '.join(self._table)}.") from None

    def configure(self, name: str, params: Mapping[str, Any]) -> BaseModel:
        """Validate `params` against the entry's Config; every problem is reported at once."""
        entry = self.get(name)
        try:
            config: BaseModel = entry.Config(**params)
        except ValidationError as error:
            raise InvalidInput(
                [f"{self.kind} '{name}': {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
            ) from None
        return config

    def build(self, name: str, params: Mapping[str, Any]) -> T:
        """An instance of `name` with validated `params`: entries take their Config as the one argument."""
        factory: Any = self.get(name)
        instance: T = factory(self.configure(name, params))
        return instance

    def describe(self) -> list[dict[str, Any]]:
        """JSON-ready rows: name, summary, paper, access (where there is one) and the JSON schema of the parameters."""
        rows = []
        for name, entry in self._table.items():
            row: dict[str, Any] = {"name": name, "summary": (entry.__doc__ or "").strip().splitlines()[0]}
            access = getattr(entry, "access", None)
            if access is not None:
                row["access"] = str(access)
            row |= {"paper": entry.paper, "parameters": entry.Config.model_json_schema().get("properties", {})}
            rows.append(row)
        return rows
