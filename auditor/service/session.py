"""What a unit's handler is given beside its files: progress, log, the wish to stop, and the run context."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from auditor.contracts.jobs import Log, Progress, RunnerMessage, UnitSpec
from auditor.contracts.plan import AuditPlan
from auditor.errors import RunnerFailure
from auditor.service.workspace import Workspace

if TYPE_CHECKING:
    from auditor.tensors import RunContext

PROGRESS_EVERY_S = 0.2


@dataclass
class Session:
    """What a handler may know about the process it runs in.

    Attributes:
        device: `auto`, `cpu` or `cuda`.
        send: writes a message to the parent.
        stopped: set when the parent asked the process to stop.
    """

    workspace: Workspace
    device: str
    send: Callable[[RunnerMessage], None]
    stopped: threading.Event = field(default_factory=threading.Event)
    _last: tuple[str, float] = ("", 0.0)

    def log(self, message: str) -> None:
        """A line for the unit's log."""
        self.send(Log(message=message))

    def tick(self, stage: str, done: int, total: int) -> None:
        """Progress, at most a few times a second; a stage's first and last step are always sent."""
        last_stage, last_time = self._last
        now = time.monotonic()
        if stage == last_stage and done < total and now - last_time < PROGRESS_EVERY_S:
            return
        self._last = (stage, now)
        self.send(Progress(stage=stage, done=done, total=total))

    def context(self) -> RunContext:
        """The run context that the plan asks for; imports torch."""
        from auditor.tensors import RunContext

        plan = None
        if self.workspace.has("plan.json"):
            plan = AuditPlan.model_validate_json(self.workspace.input("plan.json").read_bytes())
        return RunContext(
            device=_device(self.device),
            seed=plan.seed if plan else 0,
            batch_size=plan.batch_size if plan else 512,
            autocast_bf16=plan.autocast_bf16 if plan else False,
            on_tick=self.tick,
            is_cancelled=self.stopped.is_set,
        )


Handler = Callable[[UnitSpec, Workspace, Session], dict[str, Any]]
"""Does one kind of unit: reads inputs, writes outputs, returns a small JSON value."""


def _device(name: str) -> Any:
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    elif name.startswith("cuda") and not torch.cuda.is_available():
        raise RunnerFailure(
            "AUDITOR_DEVICE or the worker's --gpus asks for CUDA, but this machine offers none",
            remedy="Set AUDITOR_DEVICE to `auto`, and name only GPUs that `nvidia-smi` lists, or none.",
        )
    return torch.device(name)
