"""Every error becomes one answer: problem+json with a stable code, all problems, and what to do."""

from __future__ import annotations

import logging
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from auditor.contracts.service import Problem
from auditor.errors import AuditorError, InvalidInput, NotSignedIn, TooLarge

MEDIA_TYPE = "application/problem+json"
_LOG = logging.getLogger("auditor.api")


def add_handlers(app: FastAPI) -> None:
    """Answer every error in the one way."""
    app.add_exception_handler(AuditorError, _of_auditor)
    app.add_exception_handler(RequestValidationError, _of_validation)
    app.add_exception_handler(HTTPException, _of_http)
    app.add_exception_handler(Exception, _of_defect)


def problem_response(error: AuditorError, *, status: int | None = None) -> Response:
    """The answer that carries `error`."""
    status = status or error.http_status
    problem = Problem(
        type=f"urn:auditor:{error.code}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=error.message,
        code=error.code,
        problems=error.problems if isinstance(error, InvalidInput) else (error.message,),
        remedy=error.remedy,
        retryable=error.retryable,
    )
    headers = {"Cache-Control": "no-store"}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, TooLarge):
        headers["Connection"] = "close"  # what is still on its way is not read
    if isinstance(error, NotSignedIn):
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(problem.model_dump(mode="json"), status, headers, MEDIA_TYPE)


async def _of_auditor(_request: Request, error: Exception) -> Response:
    assert isinstance(error, AuditorError)  # noqa: S101 - as it was registered
    if error.http_status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        _LOG.error("%s: %s", error.code, error.message)
    return problem_response(error)


async def _of_validation(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - as it was registered
    lines = [
        f"{'.'.join(map(str, item['loc']))}: {item['msg'].removeprefix('Value error, ')}" for item in error.errors()
    ]
    return problem_response(InvalidInput(lines, remedy="Correct the listed problems and send it again."))


async def _of_http(_request: Request, error: Exception) -> Response:
    """What the framework itself refuses: no such path, no such method."""
    assert isinstance(error, HTTPException)  # noqa: S101 - as it was registered
    remedy = "The API is described at /api/v1/openapi.json."
    answer = problem_response(_HttpError(str(error.detail), remedy=remedy), status=error.status_code)
    answer.headers.update(error.headers or {})
    return answer


async def _of_defect(_request: Request, error: Exception) -> Response:
    """Not foreseen: told to the log in full, and to the caller in one sentence."""
    _LOG.error("unforeseen error", exc_info=error)
    return problem_response(AuditorError("the server met an error that it does not know"))


class _HttpError(AuditorError):
    code = "http_error"
