"""What parent and child of a runner process say to each other: one request in, JSON lines out."""

from __future__ import annotations

from typing import Literal

from pydantic import TypeAdapter

from auditor.contracts.base import Contract
from auditor.contracts.jobs import RunnerMessage, UnitSpec

MESSAGES: TypeAdapter[RunnerMessage] = TypeAdapter(RunnerMessage)

Isolation = Literal["auto", "required", "off"]
"""`auto`: whatever layers the machine has; `required`: no unit runs without those of network and files."""
MAX_LINE_BYTES = 8 << 20
"""A longer line is a broken protocol: large results belong into output files."""


class RunnerRequest(Contract):
    """The first line on the child's standard input. The pipe then stays open: its end means that the parent is gone."""

    unit: UnitSpec
    root: str
    """The unit's folder, with `inputs/` and `outputs/`."""
    cache: str
    """The shared content cache."""
    device: str
    """`auto`, `cpu` or `cuda`."""
    memory_bytes: int = 0
    """Address-space limit; 0 means none."""
    isolation: Isolation = "auto"
    hidden: tuple[str, ...] = ()
    """Folders and files that the process may no longer read, but for cache, workspace and the unit's own places."""


def encode(message: RunnerMessage) -> bytes:
    """One line, as it goes over the pipe."""
    return message.model_dump_json().encode() + b"\n"
