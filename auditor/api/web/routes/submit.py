"""Submitting a model from a page."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from auditor.api.routes.audits import start_audit
from auditor.api.server import Caller, TheCaller
from auditor.api.web.forms import TheForm
from auditor.api.web.guard import PageRoute
from auditor.api.web.render import go, page, problems_of
from auditor.api.web.submission_form import DATA_ROLES, ROLES, Typed, read_typed, request_of
from auditor.errors import AuditorError, InvalidInput, RunnerFailure, UnsupportedModel

router = APIRouter(route_class=PageRoute)


@router.get("/submit")
def show_form(request: Request, caller: TheCaller) -> Response:
    """The empty form."""
    return _form(request, caller, Typed())


@router.post("/submit")
async def submit(request: Request, caller: TheCaller, form: TheForm) -> Response:
    """Check a submission and audit it; a form with problems comes back with all of them, and what was typed."""
    problems: list[str] = []
    typed = await run_in_threadpool(read_typed, caller, form, problems)
    try:
        body = await run_in_threadpool(request_of, caller, typed, problems)
        started = await start_audit(body, caller)
    except (InvalidInput, UnsupportedModel, RunnerFailure) as error:
        return await run_in_threadpool(_form, request, caller, typed, error)
    return go(f"/jobs/{started.job_id}", "reused" if started.reused else "submitted")


def _form(request: Request, caller: Caller, typed: Typed, error: AuditorError | None = None) -> Response:
    with caller.transactions() as tx:
        data_sets = [row.name for row in tx.data_sets.page(1000)]
        policies = [row.name for row in tx.policies.page(1000)]
    return page(
        request,
        "submit.html.j2",
        section="submit",
        typed=typed,
        roles={name: label for name, (label, _) in ROLES.items()},
        data_roles=DATA_ROLES,
        data_sets=data_sets,
        policies=policies,
        max_bytes=caller.server.settings.max_upload_bytes,
        **(problems_of(error) if error else {}),
    )
