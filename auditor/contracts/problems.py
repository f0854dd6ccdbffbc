"""Validation errors in plain words: every problem of a file at once, with a suggestion for a mistyped key."""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import BaseModel, ValidationError

TAG = "\0"
"""How the tags of a union begin that no problem tells; no key of a request holds it."""


def problems_in(error: ValidationError, model: type[BaseModel], *, where: str = "") -> list[str]:
    """One line per problem, `where: path.to.key: what is wrong`.

    Args:
        error: what pydantic raised while it read `model`.
        model: the contract that was being read; its fields are the known keys.
        where: what was read (a file name), put before every line.
    """
    lines = []
    for item in error.errors(include_url=False):
        path = ".".join(part for part in map(str, item["loc"]) if not part.startswith(TAG))
        if item["type"] == "extra_forbidden":
            text = _unknown_key(str(item["loc"][-1]), _keys_at(model, item["loc"][:-1]))
        else:
            text = item["msg"].removeprefix("Value error, ")
        lines.append(": ".join(part for part in (where, path, text) if part))
    return lines


def _unknown_key(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    listing = f" Known: {', '.join(known)}." if known else ""
    return f"unknown key.{hint}{listing}"


def _keys_at(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Field names of the contract that `path` leads to from `model`; empty where it cannot be told."""
    current: Any = model
    for part in path:
        if isinstance(part, int):
            continue
        field = current.model_fields.get(part)
        if field is None:
            continue  # a union tag, not a key
        current = _contract_in(field.annotation)
        if current is None:
            return []
    return list(current.model_fields)


def _contract_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in getattr(annotation, "__args__", ()):
        found = _contract_in(part)
        if found is not None:
            return found
    return None
