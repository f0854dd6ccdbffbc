"""Signing in and out, the first admin, and one's own tokens."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from pydantic import Field

from auditor.api.guard import COOKIE, GuardedRoute, needs_encryption
from auditor.api.pages import After, Limit, page_of
from auditor.api.server import TheCaller, TheServer
from auditor.api.views import place_of, team_view, token_view, user_view
from auditor.contracts.base import Contract
from auditor.contracts.people import (
    Bootstrap,
    MadeToken,
    Me,
    NewToken,
    Password,
    Scope,
    SignIn,
    TokenView,
    UserView,
)
from auditor.contracts.service import Page
from auditor.service.people import SESSION_LIFE, Identity

router = APIRouter(tags=["sign-in"], route_class=GuardedRoute)


class NewPassword(Contract):
    """One's own new password."""

    password: Password
    current: str | None = Field(default=None, max_length=200)
    """The one of now; None: one has none yet."""


@router.post("/bootstrap", status_code=201)
def bootstrap(body: Bootstrap, server: TheServer) -> UserView:
    """Make the first admin with the one-time token that `auditor serve` printed."""
    return user_view(server.people.bootstrap(body))


@router.post("/session", status_code=201)
def sign_in(
    body: SignIn,
    server: TheServer,
    request: Request,
    response: Response,
) -> Me:
    """Sign in with a password: sets the session's cookie."""
    secret, identity = server.people.sign_in(body)
    set_session_cookie(response, secret, request)
    return me_of(identity)


def set_session_cookie(response: Response, secret: str, request: Request) -> None:
    """The cookie of a session: no script reads it, no other site sends it along, no plain connection carries it."""
    response.set_cookie(
        COOKIE,
        secret,
        max_age=int(SESSION_LIFE.total_seconds()),
        path="/",
        httponly=True,
        samesite="lax",
        secure=needs_encryption(request),
    )


def me_of(identity: Identity) -> Me:
    """What someone is told of themselves."""
    return Me(
        user=user_view(identity.user),
        team=team_view(identity.team),
        scopes=tuple(scope for scope in Scope if scope in identity.scopes),
        csrf_token=identity.csrf_token,
    )


@router.get("/session")
def who_am_i(caller: TheCaller) -> Me:
    """Who asks, and what they may do."""
    return me_of(caller.me)


@router.delete("/session", status_code=204)
def sign_out(caller: TheCaller, request: Request, response: Response) -> None:
    """End the session; a token is not touched."""
    cookie = request.cookies.get(COOKIE)
    if cookie is not None and caller.me.csrf_token is not None:
        caller.server.people.sign_out(cookie)
    response.delete_cookie(COOKIE, path="/")


@router.put("/session/password", status_code=204)
def change_own_password(body: NewPassword, caller: TheCaller) -> None:
    """Change one's own password; ends all one's sessions."""
    caller.affairs.change_own_password(body.password, body.current)


@router.get("/tokens")
def list_tokens(caller: TheCaller, limit: Limit = 50, after: After = None) -> Page[TokenView]:
    """One's own tokens; as an admin, those of the team."""
    return page_of(caller.affairs.tokens, lambda row: token_view(*row), lambda row: place_of(row[0]), limit, after)


@router.post("/tokens", status_code=201)
def make_token(body: NewToken, caller: TheCaller) -> MadeToken:
    """A token for oneself. Its secret is told now and never again."""
    token, secret = caller.affairs.make_token(body)
    return MadeToken(token=token_view(token, caller.me.user.name), secret=secret)


@router.delete("/tokens/{token_id}", status_code=204)
def revoke_token(token_id: str, caller: TheCaller) -> None:
    """Revoke one's own token; as an admin, any of the team."""
    caller.affairs.revoke_token(token_id)
