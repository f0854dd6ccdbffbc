"""Models: the newest verdict of each, and the history of one."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from auditor.api.references import full_audits
from auditor.api.server import Caller, TheCaller
from auditor.api.web.guard import PageRoute
from auditor.api.web.history import history_chart, version_of
from auditor.api.web.render import page
from auditor.contracts.jobs import JobKind
from auditor.errors import NotFound
from auditor.report.page import drawn
from auditor.service.records import StoredReport

router = APIRouter(route_class=PageRoute)
MOST_REPORTS, MOST_VERSIONS = 1000, 50


def _reports(caller: Caller) -> list[StoredReport]:
    with caller.transactions() as tx:
        return list(tx.reports.page(MOST_REPORTS))


@router.get("/models")
def list_models(request: Request, caller: TheCaller) -> Response:
    """Every audited model, the one audited last first."""
    newest: dict[str, list[StoredReport]] = {}
    for entry in full_audits(_reports(caller)):
        if entry.name:
            newest.setdefault(entry.name, []).append(entry)
    with caller.transactions() as tx:
        baselines = {row.name: row for row in tx.baselines.page(MOST_REPORTS)}
    return page(request, "models.html.j2", section="models", models=newest, baselines=baselines)


@router.get("/models/{model}")
def show_model(request: Request, model: str, caller: TheCaller) -> Response:
    """A model over its versions, the newest first."""
    entries = [entry for entry in _reports(caller) if entry.name == model]
    audits = full_audits(entries)[:MOST_VERSIONS]
    if not audits:
        raise NotFound(f"there is no audit of a model '{model}'", remedy="The list of models has those that are.")
    versions = [version_of(entry, caller.services.audits.report_of(entry)) for entry in audits]
    with caller.transactions() as tx:
        baseline = tx.baselines.find(name=model)
    return page(
        request,
        "model.html.j2",
        section="models",
        model=model,
        versions=versions,
        repairs=[entry for entry in entries if entry.kind is JobKind.REPAIR],
        baseline=baseline,
        chart=drawn(history_chart(versions)),
    )
