"""Whether what this process needs to accept work answers: database and store. Accepted work can wait for a broker."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress

from auditor.bootstrap import Services
from auditor.errors import AuditorError, NotFound
from auditor.service.people import People

OK = "ok"
PATIENCE_S = 3.0
"""How long a probe waits for both together: those who probe give up soon too."""
_NOTHING = "0" * 64
"""A digest that nothing has."""
_LOG = logging.getLogger("auditor.api")


class Readiness:
    """Asks everything at the same time, in threads of its own; what did not answer yet is not asked again.

    Args:
        looks: by name of what is asked; one raises an error where it cannot be used.
        patience_s: how long answers are waited for.
    """

    def __init__(self, looks: Mapping[str, Callable[[], object]], patience_s: float = PATIENCE_S) -> None:
        self._looks = looks
        self._patience_s = patience_s
        self._asked: dict[str, Future[str]] = {}

    async def ask(self) -> dict[str, str]:
        """`ok`, or what is wrong, by name; called in the event loop's thread."""
        for name, look in self._looks.items():
            if name not in self._asked or self._asked[name].done():
                self._asked[name] = _begun(name, look)
        asked = dict(self._asked)
        await asyncio.wait([asyncio.wrap_future(answer) for answer in asked.values()], timeout=self._patience_s)
        late = f"no answer within {self._patience_s:g} s"
        return {name: answer.result() if answer.done() else late for name, answer in asked.items()}


def looks_of(services: Services) -> Mapping[str, Callable[[], object]]:
    """A small read of each."""

    def store() -> None:
        with suppress(NotFound):
            services.store.get_bytes(_NOTHING)

    return {"database": People(database=services.database, clock=services.clock).is_empty, "store": store}


def _begun(name: str, look: Callable[[], object]) -> Future[str]:
    """The answer to come; a thread that hangs keeps no process from ending."""
    answer: Future[str] = Future()
    threading.Thread(target=lambda: answer.set_result(_answer(name, look)), name=f"ready-{name}", daemon=True).start()
    return answer


def _answer(name: str, look: Callable[[], object]) -> str:
    try:
        look()
    except AuditorError as error:
        return error.message
    except Exception:
        _LOG.exception("readiness of the %s", name)
        return "cannot be used; the log says why"
    return OK
