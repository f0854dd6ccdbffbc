"""Jobs: audits and remediations on their way."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Annotated

import anyio
from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from auditor.api.guard import GuardedRoute, identity_of
from auditor.api.pages import After, Limit, page_of
from auditor.api.rights import RIGHTS, require
from auditor.api.server import Caller, TheCaller
from auditor.contracts.base import digest_of
from auditor.contracts.jobs import JobKind, JobState, JobView
from auditor.contracts.service import Page
from auditor.errors import AuditorError
from auditor.service.policies import refuse_replaced
from auditor.service.states import TERMINAL
from auditor.service.trail import note

router = APIRouter(tags=["jobs"], route_class=GuardedRoute)
POLL_S = 0.5
KEEP_ALIVE_S = 15.0


@router.get("/jobs")
def list_jobs(
    caller: TheCaller,
    limit: Limit = 50,
    after: After = None,
    kind: Annotated[JobKind | None, Query(description="`audit` or `repair`; default: both.")] = None,
) -> Page[JobView]:
    """The newest jobs, without their units."""
    return page_of(
        lambda n, place: caller.services.jobs.page(n, place, kind=kind),
        lambda row: row[1],
        lambda row: row[0],
        limit,
        after,
    )


@router.get("/jobs/{job_id}")
def show_job(job_id: str, caller: TheCaller) -> JobView:
    """Where a job is, unit by unit."""
    return caller.services.jobs.status(job_id)


@router.post("/jobs/{job_id}/cancel")
def cancel_job(job_id: str, caller: TheCaller) -> JobView:
    """Ask a job to stop; finished units are kept."""
    view = caller.services.jobs.cancel(job_id)
    _note(caller, "job.cancel", view)
    return view


@router.post("/jobs/{job_id}/resume")
def resume_job(job_id: str, caller: TheCaller) -> JobView:
    """Go on with a job that was cancelled or has failed."""
    with caller.transactions() as tx:
        job = tx.jobs.get(job_id)
    if job.state is not JobState.DONE and (job.cancel_requested or job.state in TERMINAL):
        refuse_replaced(caller.transactions, caller.services.store, job.id)
    view = caller.services.jobs.resume(job_id)
    _note(caller, "job.resume", view)
    if caller.server.background is not None:
        caller.server.background.wake()
    return view


def _note(caller: Caller, what: str, view: JobView) -> None:
    with caller.transactions() as tx:
        note(tx, caller.me.user, what, view.id, caller.services.clock.now())


@router.get("/jobs/{job_id}/events", response_class=Response, responses={200: {"content": {"text/event-stream": {}}}})
def follow_job(
    job_id: str,
    caller: TheCaller,
    request: Request,
    last_event_id: Annotated[str | None, Header(max_length=100)] = None,
) -> Response:
    """Server-sent events: the whole state of the job (event `job`) whenever it has changed, until it ends.

    An event's id is a hash of the state it tells, so a client that comes back with `Last-Event-ID` is told at once what
    it missed, and nothing twice. Whoever may no longer see the job is told so (event `problem`), and nothing further.
    """
    first = caller.services.jobs.status(job_id)

    def look() -> JobView:
        require(RIGHTS["GET", "/jobs/{job_id}/events"], identity_of(request))
        return caller.services.jobs.status(first.id)

    events = _events(first, look, last_event_id)
    return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


async def _events(view: JobView, look: Callable[[], JobView], seen: str | None) -> AsyncIterator[str]:
    quiet = 0.0
    while True:
        mark = digest_of(view)[:32]
        if mark != seen:
            seen, quiet = mark, 0.0
            yield f"id: {mark}\nevent: job\ndata: {view.model_dump_json()}\n\n"
        elif quiet >= KEEP_ALIVE_S:
            quiet = 0.0
            yield ": still here\n\n"
        if view.state in TERMINAL:
            return
        await anyio.sleep(POLL_S)
        quiet += POLL_S
        try:
            view = await run_in_threadpool(look)
        except AuditorError as error:
            yield f"event: problem\ndata: {json.dumps({'code': error.code, 'detail': error.message})}\n\n"
            return
