"""Named data sets."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from auditor.api.server import Caller, TheCaller
from auditor.api.views import data_set_view
from auditor.api.web.forms import TheForm
from auditor.api.web.guard import PageRoute
from auditor.api.web.render import go, page, problems_of
from auditor.api.web.submission_form import take
from auditor.contracts.problems import problems_in
from auditor.contracts.service import NewDataSet
from auditor.errors import AuditorError, Conflict, InvalidInput

router = APIRouter(route_class=PageRoute)


@router.get("/data-sets")
def show_data_sets(request: Request, caller: TheCaller) -> Response:
    """The team's data sets, and the form for another."""
    return _data_sets(request, caller)


def _data_sets(request: Request, caller: Caller, name: str = "", error: AuditorError | None = None) -> Response:
    with caller.transactions() as tx:
        rows = [data_set_view(row) for row in tx.data_sets.page(1000)]
    told = problems_of(error) if error else {}
    return page(request, "data_sets.html.j2", section="data-sets", rows=rows, name=name, **told)


@router.post("/data-sets")
def name_data_set(request: Request, caller: TheCaller, form: TheForm) -> Response:
    """Keep a file as a data set."""
    name, file, problems = form.text("name"), form.files.get("file"), []
    try:
        NewDataSet(name=name, upload="0" * 32)
    except ValidationError as error:
        problems += problems_in(error, NewDataSet)
    if file is None or not file.size:
        problems.append("file: choose a file that is not empty")
    with caller.transactions() as tx:
        if tx.data_sets.find(name=name) is not None:
            problems.append(f"name: there is a data set '{name}' already")
    if problems or file is None:
        wrong = InvalidInput(problems, remedy="Correct what is listed and send the form again.")
        return _data_sets(request, caller, name, wrong)
    upload = take(caller, file)
    try:
        caller.uploads.name_data_set(name, upload.id)
    except Conflict as error:
        return _data_sets(request, caller, name, error)
    finally:
        caller.uploads.remove(upload.id)  # no page shows it, so nobody could remove it with the data set
    return go("/data-sets", "named")


@router.post("/data-sets/{name}/remove")
def remove_data_set(name: str, caller: TheCaller) -> Response:
    """Forget a data set; audits that used it keep it."""
    caller.uploads.remove_data_set(name)
    return go("/data-sets", "removed")
