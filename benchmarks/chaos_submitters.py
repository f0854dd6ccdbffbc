"""Who submits while `benchmarks.chaos` does its worst: clients over HTTP that repeat what failed until it is done."""

from __future__ import annotations

import itertools
import queue
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from auditor.client import Client
from auditor.contracts.manifest import Manifest
from auditor.contracts.service import NewAudit
from auditor.errors import AuditorError

T = TypeVar("T")
MODEL_BYTES, PART_BYTES = 6 << 20, 1 << 20
"""An upload comes in six parts."""
PATIENCE_S = 120.0
"""So long a submission is repeated before it counts as refused."""


@dataclass(frozen=True)
class Doing:
    """What a submitter is at.

    Attributes:
        what: `upload` or `submission`.
        server: which of the API processes it asks.
        number: of the submission.
    """

    what: str
    server: int
    number: int


@dataclass
class Submitter:
    """A client with a token of its team; each submission goes to the next API process when one fails.

    Attributes:
        log: what all submitters were told.
        folder: for the models.
        takes_ms: see `auditor.testing.handlers`.
        clients: one for each API process.
        doing: read by whoever wants to kill the server at that moment.
    """

    log: Log
    folder: Path
    takes_ms: int
    clients: list[Client] = field(default_factory=list)
    doing: Doing | None = None

    def work(self, numbers: queue.SimpleQueue[int | None]) -> None:
        """Submit what the queue says, until it says None."""
        while (number := numbers.get()) is not None:
            try:
                self._submit(number)
            except AuditorError as error:
                self.log.refused[number] = f"{error.code}: {error.message}"
            finally:
                self.doing = None

    def pause(self, seconds: float) -> None:
        """Before a client repeats a request."""
        if self.doing is not None:
            self.log.interrupted.add((self.doing.what, self.doing.number))
        time.sleep(seconds)

    def _submit(self, number: int) -> None:
        name, model = f"chaos-{number}-takes-{self.takes_ms}ms", self.folder / f"model-{number}.onnx"
        model.write_bytes(random.Random(number).randbytes(MODEL_BYTES))  # noqa: S311 - not a secret
        upload = self._insist("upload", number, lambda client: client.upload(model))
        manifest = Manifest.model_validate({"model": {"name": name}})
        request = NewAudit(model=upload.id, manifest=manifest, fresh=True)  # so that nothing but the key keeps it one
        key = f"submission-{number}"
        started = self._insist("submission", number, lambda client: client.start_audit(request, key=key))
        self.log.accepted[name] = started.job_id
        model.unlink()

    def _insist(self, what: str, number: int, ask: Callable[[Client], T]) -> T:
        """Ask one server after the other until one does it; what cannot succeed later is raised."""
        give_up = time.monotonic() + PATIENCE_S
        for server in itertools.cycle(_from(number % len(self.clients), len(self.clients))):
            self.doing = Doing(what, server, number)
            try:
                return ask(self.clients[server])
            except AuditorError as error:
                if not error.retryable or time.monotonic() > give_up:
                    raise
                self.log.interrupted.add((what, number))
        raise AssertionError("unreachable")


@dataclass
class Log:
    """What the submitters were told.

    Attributes:
        accepted: job by name of the model.
        refused: what was wrong, where a submission was given up.
        interrupted: uploads and submissions, by number, that had to be asked for more than once.
    """

    accepted: dict[str, str] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    interrupted: set[tuple[str, int]] = field(default_factory=set)


class Submitters:
    """Threads that submit; leaving the block ends them.

    Args:
        urls: of the API processes.
        tokens: one submitter for each.
        folder: for the models.
        takes_ms: how long each attack of an audit takes.
    """

    def __init__(self, urls: Sequence[str], tokens: Sequence[str], folder: Path, takes_ms: int) -> None:
        self.log = Log()
        self.asked = 0
        self._numbers: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self.all = [Submitter(self.log, folder, takes_ms) for _ in tokens]
        for token, one in zip(tokens, self.all, strict=True):
            one.clients += [Client(url, token, part_bytes=PART_BYTES, sleep=one.pause) for url in urls]
        self._threads = [threading.Thread(target=one.work, args=(self._numbers,), daemon=True) for one in self.all]

    def __enter__(self) -> Submitters:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _ in self._threads:
            self._numbers.put(None)
        if kind is None:
            for thread in self._threads:
                thread.join()
        for submitter in self.all:
            for client in submitter.clients:
                client.close()

    @property
    def pending(self) -> int:
        """Submissions that are not answered yet."""
        return self.asked - len(self.log.accepted) - len(self.log.refused)

    def ask(self) -> None:
        """Let one of them submit."""
        self._numbers.put(self.asked)
        self.asked += 1

    def at(self, what: str) -> Doing | None:
        """Something of this kind that is under way, if anything is."""
        return next((one.doing for one in self.all if one.doing is not None and one.doing.what == what), None)

    def are_at(self, doing: Doing) -> bool:
        """Whether this is still under way."""
        return any(one.doing == doing for one in self.all)


def _from(first: int, count: int) -> list[int]:
    return [(first + step) % count for step in range(count)]
