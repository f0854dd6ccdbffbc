"""Models: the newest verdict of each, and the history of one."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response

from auditor.api.pages import After, page_of
from auditor.api.references import audited_models, full_audits, place_of
from auditor.api.server import Caller, TheCaller
from auditor.api.web.guard import PageRoute
from auditor.api.web.history import history_chart, version_of
from auditor.api.web.render import page
from auditor.contracts.jobs import JobKind
from auditor.contracts.service import Page
from auditor.errors import NotFound
from auditor.report.page import drawn
from auditor.service.records import StoredReport
from auditor.service.reports import read_by_evidence

router = APIRouter(route_class=PageRoute)
_MODELS, _VERSIONS, _REPAIRS = 100, 50, 50
"""So many on one page."""


@router.get("/models")
def list_models(request: Request, caller: TheCaller, after: After = None) -> Response:
    """Every audited model, the one audited last first."""
    with caller.transactions() as tx:
        part = page_of(
            lambda n, place: audited_models(tx, n, place),
            lambda row: row,
            lambda row: place_of(row.newest),
            _MODELS,
            after or None,
        )
        names = frozenset(row.newest.name for row in part.items)
        baselines = {row.name: row for row in tx.baselines.page(len(names), name=names)}
    return page(
        request,
        "models.html.j2",
        section="models",
        models=part.items,
        baselines=baselines,
        first=not after,
        following=_query(after=part.next),
    )


@router.get("/models/{model}")
def show_model(
    request: Request, model: str, caller: TheCaller, after: After = None, repairs_after: After = None
) -> Response:
    """A model over its versions, the newest first."""
    audits, one_before = _versions(caller, model, after)
    if not audits.items:
        raise NotFound(f"there is no audit of a model '{model}'", remedy="The list of models has those that are.")
    read = [(entry, read_by_evidence(entry, caller.services.store)) for entry in audits.items]
    versions = [version_of(entry, report) for entry, report in read if report is not None]
    repairs = _repairs(caller, model, repairs_after)
    with caller.transactions() as tx:
        baseline = tx.baselines.find(name=model)
    return page(
        request,
        "model.html.j2",
        section="models",
        model=model,
        versions=versions,
        unread=[entry for entry, report in read if report is None],
        one_before=one_before,
        repairs=repairs.items,
        baseline=baseline,
        chart=drawn(history_chart(versions)) if versions else "",
        first=not after,
        first_repairs=not repairs_after,
        older=_query(after=audits.next),
        older_repairs=_query(after=after, repairs_after=repairs.next) if repairs.next else "",
    )


def _versions(caller: Caller, model: str, after: str | None) -> tuple[Page[StoredReport], StoredReport | None]:
    """A page of the model's audits, and the first one of the next page."""
    with caller.transactions() as tx:
        part = page_of(
            lambda n, place: full_audits(tx, n, place, model=model), lambda row: row, place_of, _VERSIONS, after or None
        )
        further = full_audits(tx, 1, place_of(part.items[-1]), model=model) if part.next else ()
    return part, next(iter(further), None)


def _repairs(caller: Caller, model: str, after: str | None) -> Page[StoredReport]:
    with caller.transactions() as tx:
        return page_of(
            lambda n, place: tx.reports.page(n, place, name=model, kind=JobKind.REPAIR),
            lambda row: row,
            place_of,
            _REPAIRS,
            after or None,
        )


def _query(**given: str | None) -> str:
    """What of this is there, as the query of an address."""
    values: Mapping[str, str] = {name: value for name, value in given.items() if value}
    return urlencode(values)
