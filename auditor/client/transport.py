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
from auditor.errors import AuditorError, ServerFailure, TooManyRequests
from auditor.service.failures import error_of

T = TypeVar("T")
PREFIX = "/api/v1"
TRIES = 4
"""Of requests that can be repeated, when the server cannot be reached or is too busy."""


class Transport:
    """One server, asked in one name.

    Args:
        url: of the server.
        token: whose; None: nobody's.
        sleep: waits between tries.

    Attributes:
        csrf_token: of a session, sent with every request.
    """

    def __init__(self, url: str, token: str | None, sleep: Callable[[float], None] = time.sleep) -> None:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        timeout = httpx.Timeout(30, read=900)  # an answer to a submission waits for its check
        try:
            self._http = httpx.Client(base_url=url.rstrip("/") + PREFIX, headers=headers, timeout=timeout)
        except (httpx.InvalidURL, ValueError) as error:
            raise ServerFailure(f"'{url}' is not the address of a server: {error}") from None
        self._url = url
        self._sleep = sleep
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
        response = self._send(method, path, content, headers, given, repeat=method != "POST" or key is not None)
        try:
            read: T = TypeAdapter(answer).validate_json(response.content)
        except ValidationError as error:
            raise ServerFailure(
                f"the server at {self._url} answered with what this version does not know: {error.error_count()} "
                f"problems in the answer to {method} {path}",
                remedy="Use the same version of the auditor here and there.",
            ) from None
        return read

    def text(self, path: str, query: Mapping[str, Any] | None = None) -> bytes:
        """The body of a GET as it is."""
        return self._send("GET", path, None, {}, dict(query or {}), repeat=True).content

    def send(self, path: str, data: Iterable[bytes], offset: int) -> httpx.Response:
        """Stream a part of an upload."""
        return self._checked(lambda: self._http.put(path, params={"offset": offset}, content=data))

    def stream(self, path: str, write: Callable[[bytes], object]) -> None:
        """Write the body of a GET as it comes."""
        try:
            with self._http.stream("GET", path) as response:
                if response.is_error:
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
        for left in reversed(range(TRIES if repeat else 1)):
            try:
                return self._checked(
                    lambda: self._http.request(method, path, content=content, headers=headers, params=query)
                )
            except TooManyRequests as error:
                if not left:
                    raise
                self._sleep(error.retry_after_s)
            except ServerFailure:
                if not left:
                    raise
                self._sleep(2.0 ** (TRIES - left - 1) / 2)
        raise AssertionError("unreachable")

    def _checked(self, request: Callable[[], httpx.Response]) -> httpx.Response:
        try:
            response = request()
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        if response.is_error:
            raise _error_of(response)
        return response

    def _unreachable(self, error: Exception) -> ServerFailure:
        return ServerFailure(f"the server at {self._url} could not be reached: {error or type(error).__name__}")


def _error_of(response: httpx.Response) -> AuditorError:
    """The error that an answer carries."""
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        return ServerFailure(f"{response.url} answered {response.status_code}, which is not an answer of an auditor")
    failed = Failed(code=problem.code, problems=problem.problems, remedy=problem.remedy, retryable=problem.retryable)
    error = error_of(failed)
    if isinstance(error, TooManyRequests):
        error.retry_after_s = int(response.headers.get("retry-after", "1"))
    return error
