"""Before every page: who asks, may they, how often; and before every form, that a page of ours made it."""

from __future__ import annotations

import secrets

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from auditor.api.guard import COOKIE, Handle
from auditor.api.rights import Right, require
from auditor.api.server import Server, server_of
from auditor.api.web.forms import read_form
from auditor.api.web.rights import PAGE_RIGHTS
from auditor.service.people import Identity, csrf_token_of

FORM_COOKIE = "auditor_form"
"""Ties the forms of those who are not signed in to their browser."""
_WITH_FILES = frozenset({"/submit", "/data-sets"})
"""No other form takes files: not those above all that anybody may send."""
_SAFE = frozenset({"GET", "HEAD"})
_CONTENT = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)


class PageRoute(APIRoute):
    """A page that is only reached by whoever the table of rights lets through."""

    def get_route_handler(self) -> Handle:
        """The page's own handler behind the guard."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            server, right = server_of(request), PAGE_RIGHTS[request.method, self.path]
            identity = await run_in_threadpool(_identify, server, request, right)
            request.state.identity = identity
            require(right, identity)
            if request.method in _SAFE:
                return secured(await handle(request))
            token = form_token(request, None if right.role is None else identity)
            folder = server.settings.home / "scratch"
            largest = server.settings.max_upload_bytes if self.path in _WITH_FILES else 0
            async with read_form(request, token, folder, largest) as form:
                request.state.form = form
                return secured(await handle(request))

        return guarded


def _identify(server: Server, request: Request, right: Right) -> Identity | None:
    address = request.client.host if request.client else "unknown"
    proves = right.proves or (right.role is None and request.method not in _SAFE)
    if proves:
        server.sign_ins.take(address)
    cookie = request.cookies.get(COOKIE)
    identity = None if cookie is None else server.people.of_session(cookie)
    if identity is not None or not proves:
        server.requests.take(address if identity is None else identity.key)
    return identity


def form_token(request: Request, identity: Identity | None) -> str:
    """What the forms of this session carry; of somebody who is not signed in, of this browser."""
    if identity is not None and identity.csrf_token is not None:
        return identity.csrf_token
    cookie = request.cookies.get(FORM_COOKIE) or new_form_secret(request)
    return csrf_token_of(cookie)


def new_form_secret(request: Request) -> str:
    """A secret for this browser, which the answer to this request sets."""
    if not hasattr(request.state, "form_secret"):
        request.state.form_secret = secrets.token_urlsafe(32)
    secret: str = request.state.form_secret
    return secret


def secured(response: Response) -> Response:
    """With the headers that every page has; what a route has said itself stays."""
    response.headers.setdefault("Content-Security-Policy", _CONTENT)
    response.headers.setdefault("Cache-Control", "private, no-store")
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "same-origin"
    response.headers["X-Frame-Options"] = "DENY"
    response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
    return response
