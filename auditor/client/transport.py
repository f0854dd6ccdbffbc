"""Requests and answers: every problem comes back as the error it was on the server, every answer as its contract."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import httpx
from pydantic import TypeAdapter, ValidationError

from auditor.contracts.base import Contract
from auditor.contracts.jobs import Failed
from auditor.contracts.service import Problem
from auditor.errors import AuditorError, InvalidInput, NoAuditor, NotSignedIn, ServerFailure, UnderWay
from auditor.service.failures import error_of

T = TypeVar("T")
PREFIX = "/api/v1"
UNMET_S, PATIENCE_S, UNDER_WAY_S = 4.0, 60.0, 900.0
"""How long requests that can be repeated wait for a server that never answered (it may not exist), for one that did
(it may be starting again, or too busy), and for the answer to an earlier request that is still worked on."""
LONGEST_PAUSE_S = 8.0
_OF_PROXIES = (408, 429)
"""Statuses below 500 by which what stands before a server asks for patience."""


class Transport:
    """One server, asked in one name.

    Args:
        url: of the server.
        token: whose; None: nobody's.
        sleep: waits between tries.

    Raises:
        NotSignedIn: the token is none.
        ServerFailure: the address is none.

    Attributes:
        sleep: as given.
        csrf_token: of a session, sent with every request.
    """

    def __init__(self, url: str, token: str | None, sleep: Callable[[float], None] = time.sleep) -> None:
        headers = {} if token is None else {"Authorization": f"Bearer {_sendable(token)}"}
        timeout = httpx.Timeout(30, read=900)  # an answer to a submission waits for its check
        try:
            self._http = httpx.Client(base_url=url.rstrip("/") + PREFIX, headers=headers, timeout=timeout)
        except (httpx.InvalidURL, ValueError) as error:
            raise ServerFailure(f"'{url}' is not the address of a server: {error}") from None
        self._url = url
        self._answered = False
        self.sleep = sleep
        self.csrf_token: str | None = None

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    def ask(
        self,
        method: str,
        path: str,
        answer: type[T],
        *,
        body: Contract | None = None,
        query: Mapping[str, Any] | None = None,
        key: str | None = None,
    ) -> T:
        """Send a request; what it needs to be repeated safely is a GET, a PUT or an idempotency key.

        Args:
            method: of HTTP.
            path: below the API's prefix.
            answer: type of the answer's body.
            body: JSON.
            query: parameters; those that are None are left out.
            key: idempotency key.

        Raises:
            AuditorError: what the server answered; ServerFailure when it did not.
        """
        content = None if body is None else body.model_dump_json().encode()
        headers = {"Content-Type": "application/json"} if content is not None else {}
        if self.csrf_token is not None:
            headers["X-CSRF-Token"] = self.csrf_token
        if key is not None:
            headers["Idempotency-Key"] = key
        given = {name: value for name, value in (query or {}).items() if value is not None}
        response = self._send(method, path, content, headers, given, repeat=method in ("GET", "PUT") or key is not None)
        return self._read(response, answer)

    def text(self, path: str, query: Mapping[str, Any] | None = None) -> bytes:
        """The body of a GET as it is."""
        return self._send("GET", path, None, {}, dict(query or {}), repeat=True).content

    def send(self, path: str, data: Iterable[bytes], offset: int, answer: type[T]) -> T:
        """Stream a part of an upload; never repeated here, since the server may have more or less of it by now."""
        return self._read(self._checked(lambda: self._http.put(path, params={"offset": offset}, content=data)), answer)

    def stream(self, path: str, write: Callable[[bytes], object]) -> None:
        """Write the body of a GET as it comes."""
        try:
            with self._http.stream("GET", path) as response:
                if not response.is_success:
                    response.read()
                    raise _error_of(response)
                for part in response.iter_bytes():
                    write(part)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None

    def _send(
        self,
        method: str,
        path: str,
        content: bytes | None,
        headers: Mapping[str, str],
        query: Mapping[str, Any],
        *,
        repeat: bool,
    ) -> httpx.Response:
        waited, pause = 0.0, 0.5
        while True:
            try:
                return self._checked(
                    lambda: self._http.request(method, path, content=content, headers=headers, params=query)
                )
            except AuditorError as error:
                wait = pause if error.retry_after_s is None else float(error.retry_after_s)
                if not repeat or not error.retryable or waited + wait > self._patience(error):
                    raise
            self.sleep(wait)
            waited, pause = waited + wait, min(2 * pause, LONGEST_PAUSE_S)

    def _patience(self, error: AuditorError) -> float:
        if isinstance(error, UnderWay):
            return UNDER_WAY_S
        return PATIENCE_S if self._answered else UNMET_S

    def _read(self, response: httpx.Response, answer: type[T]) -> T:
        try:
            read: T = TypeAdapter(answer).validate_json(response.content)
        except ValidationError as error:
            if any(problem["type"] == "json_invalid" for problem in error.errors()):
                raise _no_auditor(response) from None
            raise ServerFailure(
                f"the server at {self._url} answered with what this version does not know: {error.error_count()} "
                f"problems in the answer to {response.request.method} {response.request.url.path}",
                remedy="Use the same version of the auditor here and there.",
            ) from None
        return read

    def _checked(self, request: Callable[[], httpx.Response]) -> httpx.Response:
        try:
            response = request()
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        self._answered = True
        if not response.is_success:
            raise _error_of(response)
        return response

    def _unreachable(self, error: Exception) -> ServerFailure:
        """What httpx says of a broken protocol may quote a header, such as the token: only its kind is told."""
        said = "" if isinstance(error, httpx.ProtocolError) else str(error)
        return ServerFailure(f"the server at {self._url} could not be reached: {said or type(error).__name__}")


def _sendable(token: str) -> str:
    """The token without white space around it; raises NotSignedIn, without quoting it, where no header can hold it."""
    token = token.strip()
    if token and all("!" <= letter <= "~" for letter in token):
        return token
    wrong = "is empty" if not token else "holds characters that no token has"
    raise NotSignedIn(
        f"the token for the server {wrong}",
        remedy="Set AUDITOR_TOKEN to a token of this server, or unset it and run `auditor login URL`.",
    )


def _no_auditor(response: httpx.Response) -> NoAuditor:
    there = f", which leads to {response.headers['location']}" if response.has_redirect_location else ""
    return NoAuditor(f"no auditor answers at {response.url}: it answered {response.status_code}{there}")


def _error_of(response: httpx.Response) -> AuditorError:
    """The error that an answer carries."""
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        if response.status_code == 413:
            return InvalidInput(
                f"{response.url}: a proxy refuses requests of this size",
                remedy="Let it take bodies of 9 MiB (nginx: `client_max_body_size 9m`); files are sent in parts of 8.",
            )
        if response.is_server_error or response.status_code in _OF_PROXIES:
            return ServerFailure(f"{response.url} answered {response.status_code}, and no auditor behind it")
        return _no_auditor(response)
    failed = Failed(code=problem.code, problems=problem.problems, remedy=problem.remedy, retryable=problem.retryable)
    error = error_of(failed)
    told = response.headers.get("retry-after", "")
    error.retry_after_s = int(told) if told.isdigit() else error.retry_after_s
    return error
