"""Read a policy from YAML: unknown keys refused, every problem reported at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from auditor.contracts.base import as_written
from auditor.contracts.policy import Policy
from auditor.contracts.problems import problems_in
from auditor.errors import InvalidInput

MAX_BYTES = 1 << 20
"""A policy is a page of text; anything longer is not one."""

_REMEDY = "Correct the policy file; `docs/policy.md` lists every key with its default."


def read_policy(path: Path) -> Policy:
    """The policy in `path`; keys left out keep their defaults.

    Raises:
        InvalidInput: unreadable, empty, not YAML, doubled keys, unknown keys or values out of range.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InvalidInput(f"{path}: larger than {MAX_BYTES} bytes", remedy=_REMEDY)
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: cannot be read ({error})", remedy=_REMEDY) from None
    return parse_policy(text, where=str(path))


def parse_policy(text: str, *, where: str = "policy") -> Policy:
    """The policy written in `text`; `where` names its origin in messages."""
    value = _load_yaml(text, where)
    if not isinstance(value, dict):
        found = "nothing" if value is None else f"a {type(value).__name__}"
        raise InvalidInput(f"{where}: a policy is a mapping of keys to values, found {found}", remedy=_REMEDY)
    try:
        return as_written(Policy, value)
    except ValidationError as error:
        raise InvalidInput(problems_in(error, Policy, where=where), remedy=_REMEDY) from None


def _load_yaml(text: str, where: str) -> Any:
    import yaml

    try:
        _refuse_doubles(yaml.compose(text, Loader=yaml.SafeLoader), where)
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error)
        raise InvalidInput(f"{where}: not YAML{place}: {problem}", remedy=_REMEDY) from None


def _refuse_doubles(root: Any, where: str) -> None:
    """YAML keeps the last of two equal keys in silence, and an anchor can hide one: both are refused."""
    import yaml

    problems: list[str] = []
    seen: set[int] = set()
    stack = [root]
    while stack:
        node = stack.pop()
        if id(node) in seen:
            problems.append(f"{where}: line {node.start_mark.line + 1}: anchors and aliases are not supported")
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            problems += [f"{where}: '{key}' is given twice" for key in dict.fromkeys(keys) if keys.count(key) > 1]
            stack += [value for _, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            stack += node.value
    if problems:
        raise InvalidInput(problems, remedy=_REMEDY)
