"""The queue: what runs, what waits and where, and what has ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response

from auditor.api.pages import After, page_of
from auditor.api.server import Caller, TheCaller
from auditor.api.web.guard import PageRoute
from auditor.api.web.jobs_shown import MOST, JobRow, row_of
from auditor.api.web.render import page
from auditor.contracts.jobs import JobKind, JobState, JobView
from auditor.service.repositories import Place
from auditor.service.states import TERMINAL

router = APIRouter(route_class=PageRoute)
_PER_PAGE = 25
RELOAD_S = 10


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

    def wanted(view: JobView) -> bool:
        return (not kind or view.kind == kind) and model.lower() in view.name.lower()

    active = [] if after else [view for view in _active(caller) if wanted(view)]
    running = [JobRow(caller.services.jobs.status(view.id)) for view in active if view.state is JobState.RUNNING]
    queued = [JobRow(view) for view in active if view.state is JobState.QUEUED]
    queued.sort(key=lambda row: row.view.queue_position or MOST)

    def ended(n: int, place: Place | None) -> Sequence[tuple[Place, JobView]]:
        return _filtered(caller, n, place, lambda view: wanted(view) and _has_ended(view, state))

    part = page_of(ended, lambda row: row[1], lambda row: row[0], _PER_PAGE, after or None)
    with caller.transactions() as tx:
        rows = [row_of(tx, view) for view in part.items]
    filters = {name: value for name, value in (("kind", kind), ("state", state), ("model", model)) if value}
    return page(
        request,
        "queue.html.j2",
        section="queue",
        running=running if state in ("", "running") else [],
        queued=queued if state in ("", "queued") else [],
        ended=rows,
        first=after is None,
        following=urlencode(filters | {"after": part.next}) if part.next else "",
        kind=kind,
        state=state,
        model=model,
        kinds=list(JobKind),
        states=list(JobState),
        reload_s=RELOAD_S if (running or queued) and not after else 0,
    )


def _has_ended(view: JobView, state: str) -> bool:
    return view.state in TERMINAL and (not state or view.state == state)


def _active(caller: Caller) -> list[JobView]:
    return [view for _, view in _filtered(caller, MOST, None, lambda view: view.state not in TERMINAL)]


def _filtered(
    caller: Caller, n: int, place: Place | None, wanted: Callable[[JobView], bool]
) -> list[tuple[Place, JobView]]:
    """The first `n` jobs after `place` that are wanted."""
    found: list[tuple[Place, JobView]] = []
    for _ in range(0, MOST, 200):
        rows = caller.services.jobs.page(200, place)
        found += [row for row in rows if wanted(row[1])]
        if len(found) >= n or len(rows) < 200:
            break
        place = rows[-1][0]
    return found[:n]
