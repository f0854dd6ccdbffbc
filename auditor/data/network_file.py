"""Networks trained here as files: one safetensors file with a description under one metadata key.

One key, since the library writes several in an order that differs from run to run. Written in one move; equal networks
give equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from auditor.contracts.base import canonical_json
from auditor.errors import InvalidInput

_KEY = "auditor"


def write_network(path: Path, kind: str, state: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write `state` and its description to `path`.

    Args:
        path: replaced in one move.
        kind: what the file is, with a version: `judge-1`.
        state: tensors by name, on any device.
        about: JSON values; `digest` is what `check_digest` compares with after reading.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(save(tensors, {_KEY: canonical_json({"format": f"auditor-{kind}", **about})}))
    temporary.replace(path)


def read_network(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Description and tensors of the file at `path`.

    Raises:
        InvalidInput: not such a file, or of another version.
    """
    what = kind.partition("-")[0]
    try:
        with safe_open(path, framework="pt") as handle:
            about: dict[str, Any] = json.loads((handle.metadata() or {}).get(_KEY, "{}"))
            state = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InvalidInput(f"'{path.name}' is no {what} file: {error}") from None
    if about.get("format") != f"auditor-{kind}":
        raise InvalidInput(f"'{path.name}' is no {what} file of this version")
    return about, state


def load_exactly(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load `state`, every name of it and no other; raises InvalidInput where it does not fit."""
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise InvalidInput(f"'{path.name}' does not fit its own description: {error}") from None


def check_digest(path: Path, about: Mapping[str, Any], digest: str) -> None:
    """Raise InvalidInput where what was read is not what was written."""
    if digest != about["digest"]:
        raise InvalidInput(f"'{path.name}' was altered after it was written")
