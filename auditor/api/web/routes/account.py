"""One's own account: tokens and password."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from auditor.api.routes.sessions import NewPassword
from auditor.api.server import Caller, TheCaller
from auditor.api.views import token_view
from auditor.api.web.forms import TheForm
from auditor.api.web.guard import PageRoute
from auditor.api.web.render import forget_session, go, page, problems_of
from auditor.contracts.people import NewToken, Scope
from auditor.contracts.problems import problems_in
from auditor.errors import InvalidInput, NotAllowed

router = APIRouter(route_class=PageRoute)
_REMEDY = "Correct what is listed and send the form again."


@router.get("/account")
def show_account(request: Request, caller: TheCaller) -> Response:
    """Who one is, one's tokens; for an admin those of the team."""
    return _account(request, caller)


def _account(request: Request, caller: Caller, **more: Any) -> Response:
    me, now = caller.me, caller.services.clock.now()
    rows = [(token_view(token, name), token.expires_at > now) for token, name in caller.affairs.tokens(500)]
    scopes = [scope for scope in Scope if scope in me.scopes]
    values: dict[str, Any] = {
        "rows": rows,
        "scopes": scopes,
        "name": "",
        "days": "90",
        "ticked": ["read", "submit"],
        "made": None,
    }
    return page(request, "account.html.j2", section="account", **(values | more))


@router.post("/account/tokens")
def make_token(request: Request, caller: TheCaller, form: TheForm) -> Response:
    """A token for oneself, whose secret this answer alone shows."""
    ticked = form.every("scopes")
    given = {"name": form.text("name"), "scopes": ticked, "days": form.number("days")}
    try:
        token, secret = caller.affairs.make_token(NewToken.model_validate(given))
    except ValidationError as error:
        wrong = InvalidInput(problems_in(error, NewToken), remedy=_REMEDY)
    except InvalidInput as error:
        wrong = error
    else:
        return _account(request, caller, made=secret, made_name=token.name)
    return _account(request, caller, name=given["name"], days=form.text("days"), ticked=ticked, **problems_of(wrong))


@router.post("/account/tokens/{token_id}/revoke")
def revoke_token(token_id: str, caller: TheCaller) -> Response:
    """Revoke one's own token; as an admin, any of the team."""
    caller.affairs.revoke_token(token_id)
    return go("/account", "revoked")


@router.post("/account/password")
def change_password(request: Request, caller: TheCaller, form: TheForm) -> Response:
    """Change one's own password; ends all one's sessions."""
    try:
        wanted = NewPassword(password=form.raw("password"), current=form.raw("current"))
        caller.affairs.change_own_password(wanted.password, wanted.current)
    except ValidationError as error:
        wrong = InvalidInput(problems_in(error, NewPassword), remedy=_REMEDY)
        return _account(request, caller, **problems_of(wrong))
    except NotAllowed as error:
        return _account(request, caller, **problems_of(error))
    return forget_session(go("/sign-in", "password"))
