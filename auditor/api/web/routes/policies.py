"""Named policies."""

from __future__ import annotations

import tempfile
from pathlib import Path

from fastapi import APIRouter, Request, Response

from auditor.api.server import Caller, TheCaller
from auditor.api.views import policy_view
from auditor.api.web.forms import TheForm
from auditor.api.web.guard import PageRoute
from auditor.api.web.render import go, page, problems_of
from auditor.contracts.manifest_file import read_contract
from auditor.contracts.policy import Policy
from auditor.errors import AuditorError, InvalidInput

router = APIRouter(route_class=PageRoute)
_EXAMPLE = "name: release\nversion: '1'\nfail_on: medium\n"


@router.get("/policies")
def show_policies(request: Request, caller: TheCaller) -> Response:
    """The team's policies; reviewers have the form for another."""
    return _policies(request, caller, _EXAMPLE)


def _policies(request: Request, caller: Caller, text: str, error: AuditorError | None = None) -> Response:
    with caller.transactions() as tx:
        rows = [policy_view(row) for row in tx.policies.page(1000)]
    told = problems_of(error) if error else {}
    return page(request, "policies.html.j2", section="policies", rows=rows, text=text, built_in=Policy(), **told)


@router.post("/policies")
def write_policy(request: Request, caller: TheCaller, form: TheForm) -> Response:
    """Store a policy under the name that it gives itself."""
    text = form.text("policy")
    try:
        caller.reviews.write_policy(_read(text))
    except InvalidInput as error:
        return _policies(request, caller, text, error)
    return go("/policies", "written")


def _read(text: str) -> Policy:
    with tempfile.TemporaryDirectory(prefix="auditor-policy-") as folder:
        path = Path(folder) / "policy.yaml"
        path.write_text(text, "utf-8")
        return read_contract(path, Policy)


@router.post("/policies/{name}/remove")
def remove_policy(name: str, caller: TheCaller) -> Response:
    """Forget a policy; reports keep the one they were made by."""
    caller.reviews.remove_policy(name)
    return go("/policies", "removed")
