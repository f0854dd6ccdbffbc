"""Frozen dataclasses that carry tensors through the stages, and the context of a run."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from auditor.errors import Cancelled


@dataclass(frozen=True)
class ImageBatch:
    """Images in the project's one range.

    Attributes:
        images: (N, C, H, W) float32 in [0, 1].
        labels: (N,) int64 class indices, or None.
    """

    images: Tensor
    labels: Tensor | None = None

    def __len__(self) -> int:
        return int(self.images.shape[0])

    def select(self, index: Tensor) -> ImageBatch:
        """The rows at `index` (int64 or bool), in that order."""
        return ImageBatch(self.images[index], None if self.labels is None else self.labels[index])


@dataclass(frozen=True)
class Snapshot:
    """Images part-way through an inversion.

    Attributes:
        frac: how far, in [0, 1].
        images: (N, C, H, W) float32 in [0, 1], rows aligned with the reconstructions'.
    """

    frac: float
    images: Tensor


@dataclass(frozen=True)
class Reconstructions:
    """What an attack made of a target. Rows are (class, sample), flat.

    Attributes:
        images: (N, C, H, W) float32 in [0, 1].
        labels: (N,) int64, the class each row was aimed at.
        sample: (N,) int64, index of the row within its class.
        start_confidence: (N,) float32, target probability of the class before the attack.
        end_confidence: (N,) float32, after it.
        snapshots: images along the way, empty unless asked for.
        notes: remarks for the report, e.g. that memory ran out and the batch was halved.
        complete: False when the query budget ran out before the attack's planned end.
    """

    images: Tensor
    labels: Tensor
    sample: Tensor
    start_confidence: Tensor
    end_confidence: Tensor
    snapshots: tuple[Snapshot, ...] = ()
    notes: tuple[str, ...] = ()
    complete: bool = True


@dataclass(frozen=True)
class RunContext:
    """Everything a stage may know about its surroundings.

    Attributes:
        device: where tensors live.
        seed: the plan's seed; all randomness derives from it through `rng`.
        batch_size: rows per forward pass; never changes a result.
        autocast_bf16: run networks under bfloat16 autocast.
        deadline: `time.monotonic()` value after which work should stop, or None.
        on_tick: receives (stage, done, total).
        is_cancelled: polled by `tick`.
        unfinished: folder for the checkpoints of a training under way, emptied when it is through; None: keep none.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    seed: int = 0
    batch_size: int = 512
    autocast_bf16: bool = False
    deadline: float | None = None
    on_tick: Callable[[str, int, int], None] = lambda _stage, _done, _total: None
    is_cancelled: Callable[[], bool] = lambda: False
    unfinished: Path | None = None

    def rng(self, *key: str | int) -> torch.Generator:
        """A CPU generator seeded by a hash of the plan seed and `key`; draw on the CPU, then move."""
        text = "\0".join([str(self.seed), *map(str, key)])
        generator = torch.Generator()
        generator.manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1)
        return generator

    def tick(self, stage: str, done: int, total: int) -> None:
        """Report progress; raises Cancelled when the job was cancelled or its deadline has passed."""
        self.on_tick(stage, done, total)
        if self.is_cancelled():
            raise Cancelled("the job was cancelled")
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise Cancelled("the unit ran out of time", remedy="Raise AUDITOR_UNIT_TIMEOUT_S or take a smaller plan.")

    def autocast(self) -> torch.autocast:
        """The autocast context of this run; disabled unless bf16 is on."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.autocast_bf16)

    def with_seed(self, seed: int) -> RunContext:
        """The same context under another seed."""
        return replace(self, seed=seed)
