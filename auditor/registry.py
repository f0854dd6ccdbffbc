"""Catalog[T]: an immutable table of named components, built from an explicit tuple."""

from __future__ import annotations

import difflib
import json
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
        beside: names that are no entries and may be given all the same; they stand in the list of known ones.
    """

    def __init__(self, kind: str, entries: tuple[type[T], ...], *, beside: tuple[str, ...] = ()) -> None:
        table = {entry.name: entry for entry in entries}
        if len(table) != len(entries):
            raise ValueError(f"two {kind}s share a name")
        self.kind = kind
        self._beside = beside
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
            known = (*self._table, *self._beside)
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            raise UnknownName(f"unknown {self.kind} '{name}'.{hint} Known: {', '.join(known)}.") from None

    def configure(self, name: str, params: Mapping[str, Any]) -> BaseModel:
        """Validate `params`, as read from YAML or JSON, against the entry's Config; every problem is reported at once.

        Nothing is read as what it is not: no number comes from `true` or `"3"`.
        """
        entry = self.get(name)
        try:
            config: BaseModel = entry.Config.model_validate_json(json.dumps(dict(params), default=str), strict=True)
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
        """JSON-ready rows: name, summary, access (where there is one), paper, and a JSON schema for each parameter."""
        rows = []
        for name, entry in self._table.items():
            row: dict[str, Any] = {"name": name, "summary": (entry.__doc__ or "").strip().splitlines()[0]}
            access = getattr(entry, "access", None)
            if access is not None:
                row["access"] = str(access)
            schema = entry.Config.model_json_schema()
            parameters = _inlined(schema.get("properties", {}), schema.get("$defs", {}))
            row |= {"paper": entry.paper, "parameters": parameters}
            rows.append(row)
        return rows


def _inlined(node: Any, definitions: Mapping[str, Any]) -> Any:
    """A JSON schema in which every `$ref` is replaced by what it names, so that each part says all by itself."""
    if isinstance(node, list):
        return [_inlined(part, definitions) for part in node]
    if not isinstance(node, dict):
        return node
    named = definitions.get(str(node.get("$ref", "")).rpartition("/")[2], {})
    return {key: _inlined(part, definitions) for key, part in {**named, **node}.items() if key != "$ref"}
