"""Errors of pages are pages: what is wrong, and what to do. Errors of the API stay what they are."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse, Response
from starlette.exceptions import HTTPException

from auditor.api.web.guard import secured
from auditor.api.web.render import page, problems_of
from auditor.errors import AuditorError, InvalidInput, NotSignedIn

_LOG = logging.getLogger("auditor.api")
_TITLES = {401: "Please sign in", 403: "Not allowed", 404: "Not found", 413: "Too large", 429: "Too many requests"}
Handler = Callable[[Request, Any], Response | Awaitable[Response]]


def answer_with_pages(app: FastAPI, api_prefix: str) -> None:
    """Put pages in front of the API's own answers, for every address outside the API."""
    for kind in (AuditorError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, _outside(api_prefix, app.exception_handlers[kind]))


def _outside(api_prefix: str, of_api: Handler) -> Handler:
    async def handle(request: Request, error: Any) -> Response:
        if request.url.path.startswith(f"{api_prefix}/"):
            answer = of_api(request, error)
            return answer if isinstance(answer, Response) else await answer
        return secured(error_page(request, error))

    return handle


def error_page(request: Request, error: Exception) -> Response:
    """What was wrong; whoever is not signed in is asked to do that first."""
    if isinstance(error, NotSignedIn) and "hx-request" in request.headers:
        return Response(headers={"HX-Refresh": "true"})  # a part of a page that is over: load all of it anew
    if isinstance(error, NotSignedIn) and request.method == "GET":
        target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"/sign-in?next={quote(target, safe='')}", 303)
    if isinstance(error, HTTPException):
        shown, status = AuditorError("there is no such page", remedy="Go on from the queue."), error.status_code
    elif isinstance(error, RequestValidationError):
        shown, status = InvalidInput("the address has a part that cannot be read", remedy="Go on from the queue."), 422
    elif isinstance(error, AuditorError):
        shown, status = error, error.http_status
    else:
        shown, status = AuditorError("the server met an error that it does not know"), 500
    if status >= 500:
        _LOG.error("page %s", request.url.path, exc_info=error)
    told = problems_of(shown) | {
        "status": status,
        "http_status": status,
        "title": _TITLES.get(status, "That did not work"),
    }
    if isinstance(shown, NotSignedIn):
        told["remedy"] = "Sign in, then send the form again."
    return page(request, "error.html.j2", **told)
