"""Starting audits and remediations; submissions, and the model that a repair made."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse

from auditor.api.guard import GuardedRoute
from auditor.api.pages import After, Limit, page_of
from auditor.api.server import Caller, TheCaller
from auditor.api.views import submission_view
from auditor.contracts.service import NewAudit, NewRemediation, Page, StartedView, SubmissionView
from auditor.service.jobs import Started
from auditor.service.policies import refuse_replaced
from auditor.service.trail import note
from remediation.service import RepairRequest

router = APIRouter(tags=["audits"], route_class=GuardedRoute)


@router.post("/audits", status_code=202)
async def start_audit(body: NewAudit, caller: TheCaller) -> StartedView:
    """Check a submission and audit it. What is wrong with it is listed in full; a refused one leaves nothing behind."""
    return await caller.server.checks.run(caller.me.team.id, partial(_start_audit, caller, body))


def _start_audit(caller: Caller, body: NewAudit) -> StartedView:
    with caller.intake.submission(body) as request:
        started = caller.services.audits.submit(replace(request, request_id=caller.request_id))
    return _started(caller, started, "audit.start", body.manifest.model.name)


@router.post("/remediations", status_code=202)
def start_remediation(body: NewRemediation, caller: TheCaller) -> StartedView:
    """Repair what an audit found, and audit again."""
    job_id = caller.services.audits.find_report(body.audit).job_id
    refuse_replaced(caller.transactions, caller.services.store, job_id)
    request = RepairRequest(
        reference=body.audit,
        weights=body.weights,
        max_accuracy_loss=body.max_accuracy_loss,
        defense=body.defense,
        search=body.search,
        params=dict(body.params),
        fresh=body.fresh,
        priority=body.priority,
        request_id=caller.request_id,
    )
    return _started(caller, caller.services.repairs.start(request), "remediation.start", body.audit)


def _started(caller: Caller, started: Started, what: str, subject: str) -> StartedView:
    with caller.transactions() as tx:
        note(tx, caller.me.user, what, subject, caller.services.clock.now(), job=started.job_id)
    if caller.server.background is not None:
        caller.server.background.wake()
    return StartedView(job_id=started.job_id, reused=started.reused, state=started.state)


@router.get("/remediations/{repair_id}/model", response_class=Response)
def repaired_model(repair_id: str, caller: TheCaller) -> Response:
    """The repaired model, in the format that was submitted."""
    folder = tempfile.TemporaryDirectory(prefix="auditor-model-")
    path = Path(folder.name) / "model"
    try:
        caller.services.write_repaired_model(repair_id, path)
    except BaseException:
        folder.cleanup()
        raise
    headers = {"Content-Length": str(path.stat().st_size)}
    return StreamingResponse(_read(path, folder), media_type="application/octet-stream", headers=headers)


def _read(path: Path, folder: tempfile.TemporaryDirectory[str]) -> Iterator[bytes]:
    with folder, path.open("rb") as handle:
        while part := handle.read(1 << 20):
            yield part


@router.get("/submissions")
def list_submissions(caller: TheCaller, limit: Limit = 50, after: After = None) -> Page[SubmissionView]:
    """Checked models of the team."""
    with caller.transactions() as tx:
        return page_of(tx.submissions.page, submission_view, lambda row: (row.created_at, row.id), limit, after)


@router.get("/submissions/{submission_id}")
def show_submission(submission_id: str, caller: TheCaller) -> SubmissionView:
    """A checked model."""
    with caller.transactions() as tx:
        return submission_view(tx.submissions.get(submission_id))
