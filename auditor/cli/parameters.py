"""The parameters of a catalog entry in words: one line each, with default and range or choices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def parameter_lines(parameters: Mapping[str, Any], inside: str = "") -> Iterator[str]:
    """`name = default (what it may be)` for every parameter; those of a section as `section.name`.

    Args:
        parameters: JSON schemas by name, without references.
        inside: of the names, the part before.
    """
    for name, schema in parameters.items():
        if "properties" in schema:
            yield from parameter_lines(schema["properties"], f"{inside}{name}.")
        else:
            default = _shown(schema["default"]) if "default" in schema else "required"
            yield f"{inside}{name} = {default} ({_values(schema)})"


def _values(schema: Mapping[str, Any]) -> str:
    """What a value may be."""
    if "anyOf" in schema:
        return " | ".join(_values(option) for option in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return " | ".join(map(_shown, schema.get("enum", [schema.get("const")])))
    kind = schema.get("type", "anything")
    if kind == "boolean":
        return "true | false"
    if kind == "null":
        return "none"
    if kind == "array":
        parts = [_values(part) for part in schema.get("prefixItems", [schema.get("items", {})])]
        return f"{len(parts)} values: {'; '.join(parts)}" if "prefixItems" in schema else f"list of: {parts[0]}"
    bounds = ", ".join(f"{sign} {schema[bound]:g}" for bound, sign in _BOUNDS.items() if bound in schema)
    return f"{kind} {bounds}".rstrip()


def _shown(value: Any) -> str:
    """As it is written in YAML."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    return str(value)
