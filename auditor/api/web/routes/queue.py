"""The queue: what runs, what waits and where, and what has ended."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response

from auditor.api.pages import After, page_of
from auditor.api.server import Caller, TheCaller
from auditor.api.web.guard import PageRoute
from auditor.api.web.jobs_shown import JobRow, rows_of
from auditor.api.web.render import page
from auditor.contracts.jobs import JobKind, JobState, JobView
from auditor.service.records import Place
from auditor.service.states import TERMINAL

router = APIRouter(route_class=PageRoute)
_PER_PAGE, _WAITING = 25, 200
"""So many that have ended on a page; so many of those that wait."""
RELOAD_S = 10


@dataclass(frozen=True, slots=True)
class _Filter:
    """What the form asks for; what it cannot ask for fits nothing."""

    kind: str
    state: str
    model: str

    def active(self, caller: Caller) -> Sequence[JobView]:
        """Jobs that run or wait."""
        return caller.services.jobs.unfinished(kind=self._only(), name=self.model) if self._is_known() else ()

    def ended(self, caller: Caller, n: int, place: Place | None) -> Sequence[tuple[Place, JobView]]:
        """The first `n` jobs after `place` that have ended."""
        states = [item for item in TERMINAL if self.state in ("", item)]
        if not states or not self._is_known():
            return ()
        return caller.services.jobs.page(n, place, kind=self._only(), name=self.model, states=states)

    def query(self, **more: str | None) -> str:
        """The same filter as the query of an address."""
        given = {"kind": self.kind, "state": self.state, "model": self.model} | more
        return urlencode({name: value for name, value in given.items() if value})

    def _is_known(self) -> bool:
        return self.kind in ("", *JobKind)

    def _only(self) -> JobKind | None:
        return JobKind(self.kind) if self.kind else None


@router.get("/")
def show_queue(
    request: Request,
    caller: TheCaller,
    kind: str = "",
    state: str = "",
    model: Annotated[str, Query(max_length=100)] = "",
    after: After = None,
) -> Response:
    """Jobs, newest first."""
    asked = _Filter(kind, state, model)
    active = [] if after else [JobRow(view) for view in asked.active(caller)]
    running = [row for row in active if row.view.state is JobState.RUNNING]
    queued = _in_turn(row for row in active if row.view.state is JobState.QUEUED)
    part = page_of(partial(asked.ended, caller), lambda row: row[1], lambda row: row[0], _PER_PAGE, after or None)
    with caller.transactions() as tx:
        rows = rows_of(tx, part.items)
    return page(
        request,
        "queue.html.j2",
        section="queue",
        running=running if state in ("", "running") else [],
        queued=queued[:_WAITING] if state in ("", "queued") else [],
        unshown=max(0, len(queued) - _WAITING),
        ended=rows,
        first=not after,
        following=asked.query(after=part.next) if part.next else "",
        kind=kind,
        state=state,
        model=model,
        kinds=list(JobKind),
        states=list(JobState),
        reload_s=RELOAD_S if active else 0,
    )


def _in_turn(rows: Iterable[JobRow]) -> list[JobRow]:
    """Jobs that wait by their place; those without one last."""
    return sorted(rows, key=lambda row: (row.view.queue_position is None, row.view.queue_position or 0))
