"""Progress of a job on stderr: a live bar on a terminal, one line per stage elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from auditor.contracts.jobs import JobEvent


class JobProgress:
    """Shows unit, stage, share done and estimated time left. Nothing of it goes to stdout."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._live = sys.stderr.isatty() and not quiet
        self._last: tuple[str, str] = ("", "")
        self._since = time.monotonic()
        self._bar: Bar | None = None

    def __enter__(self) -> JobProgress:
        if self._live:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                Progress,
                SpinnerColumn,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )

            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                TimeElapsedColumn(),
                TextColumn("ETA"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def event(self, event: JobEvent) -> None:
        """Take one event of a job."""
        if self._quiet or event.message is None:
            return
        if event.message.event == "log" and event.message.level != "info":
            self._say(f"{event.unit_key}: {event.message.message}")
        elif event.message.event == "failed":
            self._say(f"{event.unit_key} failed: {'; '.join(event.message.problems)}")
        elif event.message.event == "progress":
            message = event.message
            self._show(event.unit_key, message.stage, message.done, message.total, _share(event))
            self._last = (event.unit_key, message.stage)

    def step(self, stage: str, done: int, total: int) -> None:
        """Take progress of something that is not a job."""
        if not self._quiet:
            self._show("local", stage, done, total, "")
            self._last = ("local", stage)

    def _show(self, unit: str, stage: str, done: int, total: int, share: str) -> None:
        fresh = (unit, stage) != self._last
        if self._bar is None:
            if fresh:
                self._say(f"{share}{unit}: {stage}")
            return
        if fresh:
            for task in self._bar.task_ids:
                self._bar.remove_task(task)
            self._bar.add_task(f"{share}{unit}: {stage}", total=total)
        self._bar.update(self._bar.task_ids[-1], completed=done, total=total)

    def _say(self, line: str) -> None:
        elapsed = time.monotonic() - self._since
        text = f"[{elapsed:6.1f}s] {line}"
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            typer.echo(text, err=True)


def _share(event: JobEvent) -> str:
    return f"{event.units_done}/{event.units_known} " if event.units_known else ""
