"""A job on its way: progress by unit, cancel, resume, run again."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from auditor.api.routes import jobs as api
from auditor.api.server import Caller, TheCaller
from auditor.api.web.guard import PageRoute
from auditor.api.web.jobs_shown import row_of, starts_in, time_left
from auditor.api.web.render import go, page
from auditor.contracts.jobs import UnitState
from auditor.service.policies import refuse_replaced
from auditor.service.states import TERMINAL
from auditor.service.trail import note

router = APIRouter(route_class=PageRoute)
RELOAD_S = 5


@router.get("/jobs/{job_id}")
def show_job(request: Request, job_id: str, caller: TheCaller) -> Response:
    """Where a job is."""
    shown = _shown(caller, job_id)
    return page(request, "job.html.j2", section="queue", reload_s=0 if shown["ended"] else RELOAD_S, **shown)


@router.get("/jobs/{job_id}/progress")
def show_progress(request: Request, job_id: str, caller: TheCaller) -> Response:
    """The part of the page that changes; when the job has ended, the browser is told to load the whole page."""
    shown = _shown(caller, job_id)
    response = page(request, "progress.html.j2", **shown)
    if shown["ended"]:
        response.headers["HX-Refresh"] = "true"
    return response


def _shown(caller: Caller, job_id: str) -> dict[str, Any]:
    view = caller.services.jobs.status(job_id)
    with caller.transactions() as tx:
        row = row_of(tx, view)
    finished = sum(unit.state is UnitState.DONE for unit in view.units)
    return {
        "job": view,
        "row": row,
        "ended": view.state in TERMINAL,
        "when": starts_in(view),
        "finished": finished,
        "left": time_left(view.units),
    }


@router.post("/jobs/{job_id}/cancel")
def cancel(job_id: str, caller: TheCaller) -> Response:
    """Ask a job to stop."""
    view = api.cancel_job(job_id, caller)
    return go(f"/jobs/{view.id}", "cancelled")


@router.post("/jobs/{job_id}/resume")
def resume(job_id: str, caller: TheCaller) -> Response:
    """Go on with a job that was cancelled or has failed."""
    view = api.resume_job(job_id, caller)
    return go(f"/jobs/{view.id}", "resumed")


@router.post("/jobs/{job_id}/rerun")
def rerun(job_id: str, caller: TheCaller) -> Response:
    """Do the same work again, as a new job; sent twice, it is one."""
    with caller.transactions() as tx:
        job = tx.jobs.get(job_id)
        submission = tx.submissions.get(job.submission_id)
    refuse_replaced(caller.transactions, caller.services.store, job_id)
    started = caller.services.jobs.start(
        job.kind, job.payload, submission, new_submission=False, fresh=False, again=True
    )
    with caller.transactions() as tx:
        note(tx, caller.me.user, "job.rerun", job.id, caller.services.clock.now(), job=started.job_id)
    if caller.server.background is not None:
        caller.server.background.wake()
    return go(f"/jobs/{started.job_id}", "reused" if started.reused else "rerun")
