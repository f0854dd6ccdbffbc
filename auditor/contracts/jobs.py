"""Jobs, their cut into units, and the messages of the runner process."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from auditor.contracts.base import Contract


class JobKind(StrEnum):
    """What a job does."""

    AUDIT = "audit"
    REPAIR = "repair"


class JobState(StrEnum):
    """Where a job is."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    """Stopped by a person; finished units are kept and it can be resumed."""


class UnitState(StrEnum):
    """Where a unit is."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class UnitSpec(Contract):
    """One idempotent piece of work, run in a fresh runner process.

    `inputs` name what the process may read, by artifact digest; it sees nothing else.
    """

    kind: str
    """Handler name: `check`, `prepare`, `attack`, `fisher`, `finish`, `repair-train`, ..."""
    key: str
    """Unique within the job, e.g. `attack/ppa/0`."""
    params: dict[str, JsonValue] = {}
    inputs: dict[str, str] = {}
    """Input name to artifact digest. The name is the file name in the workspace."""


class UnitResult(Contract):
    """What a unit gave back."""

    value: dict[str, JsonValue] = {}
    """Small JSON result."""
    outputs: dict[str, str] = {}
    """Output name to artifact digest (filled by the parent after storing)."""
    seconds: float = 0.0
    peak_memory_bytes: int | None = None


class Progress(Contract):
    """Runner message: how far the unit is."""

    event: Literal["progress"] = "progress"
    stage: str
    done: int
    total: int


class Log(Contract):
    """Runner message: a line for the log."""

    event: Literal["log"] = "log"
    level: Literal["info", "warning", "error"] = "info"
    message: str


class Finished(Contract):
    """Runner message: the unit's result, always the last line of a good run."""

    event: Literal["finished"] = "finished"
    value: dict[str, JsonValue]
    outputs: tuple[str, ...] = ()
    """File names under the workspace's `outputs/`."""
    seconds: float
    peak_memory_bytes: int | None = None


class Failed(Contract):
    """Runner message: the unit ended with an error."""

    event: Literal["failed"] = "failed"
    code: str
    problems: tuple[str, ...]
    remedy: str = ""
    retryable: bool = False


RunnerMessage = Annotated[Progress | Log | Finished | Failed, Field(discriminator="event")]
