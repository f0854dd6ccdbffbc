"""Templates to answers: what every page shows around its own content."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from auditor.api.guard import COOKIE, needs_encryption
from auditor.api.references import origin_of, reference_of
from auditor.api.web.files import static_address
from auditor.api.web.guard import FORM_COOKIE, form_token
from auditor.contracts.people import Role
from auditor.errors import AuditorError, InvalidInput
from auditor.report.page import page_environment
from auditor.service.people import Identity

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"
DONE = {
    "submitted": "The submission was checked, and the audit waits for its turn.",
    "reused": "Exactly this audit was there already: nothing is run twice.",
    "cancelled": "The job stops within seconds; what is finished is kept.",
    "resumed": "The job goes on from what is finished.",
    "rerun": "The same work runs again, as a job of its own.",
    "waived": "The finding is waived until its date.",
    "withdrawn": "The waiver is withdrawn: the finding counts again.",
    "approved": "Later audits of this model are compared with this one.",
    "unapproved": "The approval is withdrawn.",
    "repair": "The repair waits for its turn. The same audit follows it.",
    "named": "The data set can be used by its name.",
    "removed": "It is removed.",
    "written": "The policy is stored.",
    "revoked": "The token is revoked.",
    "password": "Your password is changed; sign in with the new one.",
    "added": "The person is added.",
    "changed": "The change is stored.",
    "team": "The team is made; its admin can sign in.",
    "admin": "The first admin is made: sign in.",
    "signed-out": "You are signed out.",
}
"""What was done, by the word in the address: no other text comes from there."""


@cache
def _environment() -> Environment:
    environment = page_environment(TEMPLATES)
    environment.filters["when"] = when
    environment.filters["reference"] = reference_of
    environment.filters["origin"] = origin_of
    environment.filters["day"] = lambda text: when(text)[:10]
    return environment


def when(text: str) -> str:
    """A time as `2030-01-02 03:04 UTC`."""
    return f"{datetime.fromisoformat(text).astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def page(request: Request, template: str, *, status: int = 200, section: str = "", **values: Any) -> Response:
    """The page.

    Args:
        request: to which it is the answer.
        template: its template.
        status: of the answer.
        section: the entry of the navigation that it belongs to.
        values: what it shows.
    """
    me: Identity | None = getattr(request.state, "identity", None)
    own = {
        "layout": "layout.html.j2",
        "me": me,
        "may_review": me is not None and me.user.role.rank >= Role.REVIEWER.rank,
        "may_admin": me is not None and me.user.role is Role.ADMIN,
        "section": section,
        "csrf": form_token(request, me),
        "done": DONE.get(request.query_params.get("done", ""), ""),
        "static": static_address,
        "problems": (),
        "remedy": "",
        "reload_s": 0,
    }
    text = _environment().get_template(template).render(own | values)
    response = HTMLResponse(text, status)
    if hasattr(request.state, "form_secret"):
        secret, secure = request.state.form_secret, needs_encryption(request)
        response.set_cookie(FORM_COOKIE, secret, path="/", httponly=True, samesite="strict", secure=secure)
    return response


def go(address: str, done: str = "") -> Response:
    """To another page, after a form."""
    query = f"?{urlencode({'done': done})}" if done else ""
    return RedirectResponse(f"{address}{query}", 303)


def problems_of(error: AuditorError) -> dict[str, Any]:
    """What a form that comes back says of what was wrong."""
    lines = error.problems if isinstance(error, InvalidInput) else (error.message,)
    return {"problems": lines, "remedy": error.remedy, "status": error.http_status}


def forget_session(response: Response) -> Response:
    """Without the session's cookie."""
    response.delete_cookie(COOKIE, path="/")
    return response
