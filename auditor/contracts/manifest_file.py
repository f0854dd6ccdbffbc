"""auditor.yaml on disk: read with every problem reported at once, written with a comment on every key.

Plain YAML with three restrictions that keep a file from saying something else than it seems to: a key may not stand
twice in one mapping, anchors and aliases are refused (a short file could expand to gigabytes), and keys are taken as
the text they are written as (`no:` stays `no`, `01:` stays `01`).
"""

from __future__ import annotations

import difflib
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from auditor.contracts.base import as_written
from auditor.contracts.manifest import Manifest
from auditor.errors import InvalidInput, StorageFailure

M = TypeVar("M", bound=BaseModel)
Location = tuple[str | int, ...]

_MAX_BYTES = 1 << 18
_MAX_DEPTH = 50
_COLLECTION_TAGS = {"tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"}
_HEADER = """\
# What `auditor submit` needs to know about a model. Commit it beside the model.
# Paths are relative to this file. Unknown keys are refused. A key behind `#` shows its default or an example.
"""
_ALWAYS_SHOWN = {"version", "preset", "max_accuracy_loss"}
_EXAMPLES = {
    "architecture": "small-cnn",
    "input": "{channels: 3, height: 64, width: 64, low: 0.0, high: 1.0}",
    "n_classes": "10",
    "private": "{path: data/private}",
    "heldout": "{path: data/heldout}",
    "public": "{path: data/public}",
    "generator": "{path: generator.onnx, channels: 3, height: 64, width: 64}",
    "judge": "{path: embedder.onnx, input: {channels: 3, height: 112, width: 112}}",
    "class_map": "{folder-a: 0, folder-b: 1}",
    "max_per_class": "100",
    "seed": "0",
    "samples_per_class": "5",
    "attacks": "[{name: ppa}, {name: gmi}]",
    "priors": "[{name: vae}]",
    "split": "layer1",
    "policy": "{fail_on: high}",
}


def read_manifest(path: Path) -> Manifest:
    """The manifest at `path`; raises InvalidInput that lists every problem with its line."""
    return read_contract(path, Manifest, made_by="auditor init")


def read_contract(path: Path, contract: type[M], *, made_by: str | None = None) -> M:
    """Any contract (a manifest, a policy) from a YAML or JSON file.

    Args:
        path: the file.
        contract: what it holds.
        made_by: the command that writes such files, for whoever has none.

    Raises:
        InvalidInput: every problem, as `file:line: dotted.path: what is wrong`.
    """
    document = _Document(path, made_by)
    problems = list(document.problems)
    try:
        value = as_written(contract, document.value)
    except ValidationError as error:
        problems += [document.describe(contract, item) for item in error.errors(include_url=False)]
    if problems:
        ordered = [text for _, text in sorted(problems, key=lambda problem: problem[0])]
        raise InvalidInput(ordered, remedy=f"Correct {path.name} and run the command again.")
    return value


class _Document:
    """A parsed YAML file: plain values, and the line of every path.

    Attributes:
        value: what the file says; an empty file is an empty mapping, and an empty section is as good as none.
        problems: duplicate keys and keys that are not plain text, each with its line.
    """

    def __init__(self, path: Path, made_by: str | None) -> None:
        self.file = path.name
        self.problems: list[tuple[int, str]] = []
        self._lines: dict[Location, int] = {}
        text = _read_text(path, made_by)
        try:
            _refuse_aliases_and_depth(self.file, text)
            node = yaml.compose(text, Loader=yaml.SafeLoader)
            self.value: Any = {} if node is None else self._plain(node, ())
            if isinstance(self.value, dict):
                self.value = {key: part for key, part in self.value.items() if part is not None}
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = "" if mark is None else f":{mark.line + 1}"
            raise InvalidInput(
                f"{path.name}{line}: not valid YAML: {getattr(error, 'problem', None) or error}"
            ) from None
        except ValueError as error:
            raise InvalidInput(f"{path.name}: not valid YAML: {error}") from None

    def _plain(self, node: yaml.Node, location: Location) -> Any:
        self._lines.setdefault(location, node.start_mark.line + 1)
        if isinstance(node, yaml.CollectionNode) and node.tag not in _COLLECTION_TAGS:
            raise yaml.MarkedYAMLError(problem=f"the tag {node.tag} is not allowed", problem_mark=node.start_mark)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, location)
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(item, (*location, index)) for index, item in enumerate(node.value)]
        return yaml.SafeLoader("").construct_object(node)

    def _mapping(self, node: yaml.MappingNode, location: Location) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self._note(line, location, "a key must be plain text")
                continue
            here = (*location, key_node.value)
            if key_node.value in result:
                self._note(line, here, f"stands twice, first on line {self._lines[here]}")
                continue
            self._lines[here] = line
            result[key_node.value] = self._plain(value_node, here)
        return result

    def _note(self, line: int, location: Location, problem: str) -> None:
        self.problems.append((line, f"{self.file}:{line}: {_dotted(location)}: {problem}"))

    def describe(self, contract: type[BaseModel], error: ErrorDetails) -> tuple[int, str]:
        """Line and text of one validation error; a missing key is put at the section that lacks it."""
        location = error["loc"]
        known = location
        while known and known not in self._lines:
            known = known[:-1]
        line = self._lines.get(known, 1)
        return line, f"{self.file}:{line}: {_dotted(location)}: {_explain(contract, error)}"


def _refuse_aliases_and_depth(file: str, text: str) -> None:
    """Aliases, before any is followed, and deep nesting, which takes long to parse; an anchor alone does no harm."""
    problems, depth = [], 0
    with suppress(yaml.YAMLError):  # composing says what else is wrong
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _MAX_DEPTH:
                raise InvalidInput(f"{file}: nested too deeply")
            if isinstance(event, yaml.AliasEvent):
                line = event.start_mark.line + 1 if event.start_mark else 1
                problems.append(
                    f"{file}:{line}: '*{event.anchor}' stands for what is written at '&{event.anchor}'; anchors and "
                    "aliases are refused, since with them a short file can expand to gigabytes"
                )
    if problems:
        raise InvalidInput(problems, remedy="Write the values out where the aliases stand.")


def _read_text(path: Path, made_by: str | None) -> str:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InvalidInput(f"{path}: larger than {_MAX_BYTES // 1024} KiB, which no such file is")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InvalidInput(f"{path}: not UTF-8 text") from None
    except OSError as error:
        remedy = "Name another file." if made_by is None else f"Write one with `{made_by}`, or name another file."
        raise InvalidInput(f"{path}: cannot be read: {error.strerror}", remedy=remedy) from None


def _dotted(location: Sequence[str | int]) -> str:
    return ".".join(map(str, location)) or "(top level)"


def _explain(contract: type[BaseModel], error: ErrorDetails) -> str:
    location = error["loc"]
    if error["type"] == "extra_forbidden":
        known = list(_fields_at(contract, location[:-1]))
        close = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
        return f"unknown key; {hint}"
    if error["type"] == "missing":
        field = _fields_at(contract, location[:-1]).get(str(location[-1]))
        meaning = "" if field is None or not field.description else f": {_one_line(field.description)}"
        return f"is missing{meaning}"
    if error["type"] in {"model_type", "model_attributes_type", "dict_type"}:
        return f"must be a mapping of keys to values, not {type(error['input']).__name__}"
    given = error["input"]
    shown = f" (given: {given!r})" if isinstance(given, str | int | float | bool) else ""
    return error["msg"].removeprefix("Value error, ") + shown


def _fields_at(contract: type[BaseModel], location: Sequence[str | int]) -> dict[str, FieldInfo]:
    """The fields of the model that stands at `location` inside `contract`; empty where there is none."""
    model: type[BaseModel] | None = contract
    own_name = False
    for part in location:
        if own_name:
            own_name = False
        elif isinstance(part, str):
            field = None if model is None else model.model_fields.get(part)
            model = None if field is None else _model_in(field.annotation)
            own_name = field is not None and get_origin(field.annotation) is dict
    return {} if model is None else dict(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _model_in(arg)) is not None), None)


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write `manifest` to `path`, replacing it whole or not at all.

    What differs from its default is written as a key, the rest as a commented-out line with the default, each with the
    field's own description. Reading the file gives an equal manifest.
    """
    text = _HEADER + "\n" + "\n".join(_lines_of(manifest, 0)) + "\n"
    try:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as handle:
            handle.write(text)
        temporary = Path(handle.name)
        temporary.chmod(0o644)
        os.replace(temporary, path)  # noqa: PTH105
    except OSError as error:
        raise StorageFailure(f"{path}: cannot be written: {error.strerror}") from None


def _lines_of(model: BaseModel, indent: int) -> Iterator[str]:
    pad = "  " * indent
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        is_default = not field.is_required() and value == field.get_default(call_default_factory=True)
        comment = f"  # {_one_line(field.description)}" if field.description else ""
        dumped = model.model_dump(mode="json", include={name})[name]
        if isinstance(value, BaseModel) and (indent == 0 or not is_default):
            about = _one_line((type(value).__doc__ or "").split("\n")[0])
            yield from [""] * (indent == 0)
            yield f"{pad}{name}:  # {about}"
            yield from _lines_of(value, indent + 1)
        elif is_default and name not in _ALWAYS_SHOWN:
            yield f"{pad}# {name}: {_EXAMPLES.get(name, 'null') if value is None else _inline(dumped)}{comment}"
        else:
            if isinstance(value, tuple) and any(isinstance(item, BaseModel) for item in value):
                dumped = [item.model_dump(mode="json", exclude_defaults=True) for item in value]
            yield f"{pad}{name}: {_inline(dumped)}{comment}"


def _inline(value: Any) -> str:
    """YAML flow style on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=100_000, allow_unicode=True, sort_keys=False)
    return text.removesuffix("...\n").strip()


def _one_line(text: str) -> str:
    return " ".join(text.split())
