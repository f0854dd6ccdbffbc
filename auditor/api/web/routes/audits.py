"""The page of an audit: what it found, and what people decide about it; the page of a repair; pictures one by one."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import ValidationError

from auditor.api.references import reference_of
from auditor.api.routes.audits import start_remediation
from auditor.api.routes.reports import AgainstBaseline, list_pictures
from auditor.api.server import Caller, TheCaller
from auditor.api.web.decisions import repair_asked, shown_decisions, waiver_asked
from auditor.api.web.forms import Form, TheForm
from auditor.api.web.guard import PageRoute
from auditor.api.web.picture_pairs import PREVIEWED, may_look, pair_pictures
from auditor.api.web.pixelated import pixelated
from auditor.api.web.render import go, page, problems_of
from auditor.contracts.jobs import JobKind
from auditor.contracts.problems import problems_in
from auditor.contracts.service import NewRemediation, NewWaiver
from auditor.errors import AuditorError, Conflict, InvalidInput, NotFound
from auditor.report.formats import FORMATS
from auditor.report.render_html import audit_context
from auditor.report.render_repair_html import repair_context

router = APIRouter(route_class=PageRoute)


@router.get("/audits/{report_id}")
def show_audit(request: Request, report_id: str, caller: TheCaller, baseline: AgainstBaseline = None) -> Response:
    """Everything that the report says, without its pictures."""
    return _audit(request, caller, report_id, against_baseline=baseline is not None)


def _audit(
    request: Request,
    caller: Caller,
    report_id: str,
    error: AuditorError | None = None,
    typed: dict[str, str] | None = None,
    *,
    against_baseline: bool = False,
) -> Response:
    entry = caller.services.audits.find_report(report_id)
    if entry.kind is JobKind.REPAIR:
        return go(f"/repairs/{entry.job_id}")
    stored = caller.services.audits.report_of(entry)
    try:
        report = caller.reviews.decided(stored, against_baseline=against_baseline)
    except (InvalidInput, NotFound) as problem:
        error, report = problem, caller.reviews.decided(stored)
    with caller.transactions() as tx:
        submitter = tx.jobs.get(entry.job_id).submitter
    return page(
        request,
        "audit.html.j2",
        section="models",
        entry=entry,
        submitter=submitter,
        days=(caller.services.clock.now() - entry.created_at).days,
        formats=list(FORMATS),
        typed=typed or {},
        against="baseline=approved" if report.decision.baseline is not None else "",
        **audit_context(report),
        **shown_decisions(caller, entry, report),
        **(problems_of(error) if error else {}),
    )


@router.post("/audits/{report_id}/waivers")
def waive(request: Request, report_id: str, caller: TheCaller, form: TheForm) -> Response:
    """Let a finding through for a while."""
    entry = caller.services.audits.find_report(report_id)
    try:
        caller.reviews.waive(waiver_asked(form, entry.name))
    except ValidationError as error:
        return _audit(request, caller, report_id, _invalid(error, NewWaiver), _typed(form))
    return go(f"/audits/{report_id}", "waived")


@router.post("/audits/{report_id}/waivers/{waiver_id}/withdraw")
def withdraw(report_id: str, waiver_id: str, caller: TheCaller) -> Response:
    """Take a waiver back."""
    caller.services.audits.find_report(report_id)
    caller.reviews.withdraw_waiver(waiver_id)
    return go(f"/audits/{report_id}", "withdrawn")


@router.post("/audits/{report_id}/baseline")
def approve(request: Request, report_id: str, caller: TheCaller, form: TheForm) -> Response:
    """Make it the audit that later ones of this model are compared with, or take that back."""
    entry = caller.services.audits.find_report(report_id)
    if form.text("withdraw") == "yes":
        caller.reviews.withdraw_baseline(entry.name)
        return go(f"/audits/{report_id}", "unapproved")
    try:
        caller.reviews.approve(entry.name, report_id)
    except InvalidInput as error:
        return _audit(request, caller, report_id, error)
    return go(f"/audits/{report_id}", "approved")


@router.post("/audits/{report_id}/repairs")
def repair(request: Request, report_id: str, caller: TheCaller, form: TheForm) -> Response:
    """Start a repair."""
    entry = caller.services.audits.find_report(report_id)
    try:
        started = start_remediation(repair_asked(form, reference_of(entry)), caller)
    except ValidationError as error:
        return _audit(request, caller, report_id, _invalid(error, NewRemediation), _typed(form))
    except (InvalidInput, Conflict) as error:
        return _audit(request, caller, report_id, error, _typed(form))
    return go(f"/jobs/{started.job_id}", "reused" if started.reused else "repair")


def _invalid(error: ValidationError, contract: Any) -> InvalidInput:
    return InvalidInput(problems_in(error, contract), remedy="Correct what is listed and send the form again.")


def _typed(form: Form) -> dict[str, str]:
    return {name: form.text(name) for name in form.texts}


@router.get("/audits/{report_id}/pictures")
def show_pictures(
    request: Request,
    report_id: str,
    caller: TheCaller,
    show: Annotated[list[str] | None, Query(max_length=1000)] = None,
) -> Response:
    """The pictures: of those that nobody asked for yet, a few coarse squares; each one asked for is written down."""
    entry = caller.services.audits.find_report(report_id)
    asked = list(dict.fromkeys(show or ()))
    gallery = caller.services.audits.gallery_of(entry)
    rows = list_pictures(report_id, caller)
    if gallery is None:
        raise NotFound(f"the report '{report_id}' has no pictures")
    return page(
        request,
        "pictures.html.j2",
        section="models",
        entry=entry,
        rows=rows,
        coarse=pixelated(gallery),
        asked=asked,
        name_of=lambda url: url.partition("?")[0].rpartition("/")[2],
    )


@router.get("/repairs/{repair_id}")
def show_repair(request: Request, repair_id: str, caller: TheCaller) -> Response:
    """A repair: before against after."""
    entry = caller.services.audits.find_report(repair_id)
    if entry.kind is not JobKind.REPAIR:
        return go(f"/audits/{reference_of(entry)}")
    report = caller.services.audits.get_repair_report(repair_id)
    stored = caller.services.audits.audits_of_repair(entry)
    before, after = stored.get(report.before_report_id), stored.get(report.after_report_id or "")
    pictures = None
    if before is not None and after is not None and may_look(caller):
        pictures = pair_pictures(caller, before, after, most=PREVIEWED)
    return page(
        request,
        "repair_page.html.j2",
        section="models",
        entry=entry,
        formats=list(FORMATS),
        stored=stored,
        pictures=pictures,
        tried=[
            candidate
            for candidate in report.candidates
            if candidate.report_id in stored and report.before_quick_report_id in stored
        ],
        **repair_context(report),
    )
