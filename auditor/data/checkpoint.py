"""Training loops that can be stopped anywhere and go on to the same bytes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from auditor.errors import Cancelled
from auditor.tensors import RunContext

EVERY_S = 60.0
"""Seconds between two checkpoints: what a killed process may lose."""


class Stateful(Protocol):
    """A network, optimiser or schedule."""

    def state_dict(self) -> dict[str, Any]:
        """All that decides what it does next."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Go on from such a state."""
        ...


def resumable(
    ctx: RunContext, stage: str, steps: int, parts: Mapping[str, Stateful], draws: torch.Generator
) -> Iterator[int]:
    """Yield the steps of a training that are still to be done, and report progress after each.

    The state after a step is written to `ctx.unfinished` now and then, and when the job is cancelled; a later call
    with the same context and parts begins behind the last one written, and ends with the same bytes as if nothing had
    happened. Without such a folder nothing is written.

    Args:
        ctx: where checkpoints lie, and progress.
        stage: name for progress, and of the checkpoint.
        steps: of the whole training.
        parts: everything that the loop's body changes, by name; restored in place.
        draws: the generator that the body draws from.
    """
    path = None if ctx.unfinished is None else ctx.unfinished / f"{stage.replace(' ', '-')}.pt"
    first = 0 if path is None or not path.exists() else _restore(path, parts, draws)
    written = time.monotonic()
    for step in range(first, steps):
        yield step
        try:
            ctx.tick(stage, step + 1, steps)
        except Cancelled:
            _save(path, step + 1, parts, draws)
            raise
        if time.monotonic() - written > EVERY_S:
            _save(path, step + 1, parts, draws)
            written = time.monotonic()
    _save(path, steps, parts, draws)


def _save(path: Path | None, done: int, parts: Mapping[str, Stateful], draws: torch.Generator) -> None:
    """In one move, so that a kill leaves the checkpoint before it."""
    if path is None:
        return
    draft = path.with_suffix(".part")
    state = {name: part.state_dict() for name, part in parts.items()}
    torch.save({"done": done, "draws": draws.get_state(), "parts": state}, draft)
    draft.replace(path)


def _restore(path: Path, parts: Mapping[str, Stateful], draws: torch.Generator) -> int:
    """Steps done."""
    state = torch.load(path, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state["parts"][name])
    draws.set_state(state["draws"])
    return int(state["done"])
