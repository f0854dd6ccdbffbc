"""The base of every contract, canonical JSON, and content digests."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict

M = TypeVar("M", bound=BaseModel)


class Contract(BaseModel):
    """Frozen, unknown keys refused, no NaN or infinity; field docstrings become schema descriptions."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
        ser_json_bytes="base64",
        val_json_bytes="base64",
    )


def as_written(model: type[M], value: Any) -> M:
    """A `model` from what somebody wrote in YAML or JSON, where nothing is read as what it is not.

    No number comes from `true` or `"3"`, and no truth value from `"no"` or 1.
    """
    return model.model_validate_json(json.dumps(value, default=str), strict=True)


def canonical_json(value: Any) -> str:
    """Sorted keys, no spaces: equal values give equal text. Contracts are dumped in JSON mode first."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} is not JSON")


def digest_of(value: Any) -> str:
    """sha256 (hex) of bytes, or of the canonical JSON of anything else."""
    data = value if isinstance(value, bytes) else canonical_json(value).encode()
    return hashlib.sha256(data).hexdigest()


def digest_of_file(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@cache
def code_digest() -> str:
    """sha256 over the project's own Python files: caches and report ids change when the code does.

    They are read once: a process goes on with the code it started with.
    """
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for package in ("auditor", "remediation"):
        for path in sorted((root / package).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
