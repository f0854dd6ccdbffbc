"""Before every route: who asks, may they, how often and how much; and a repeated request gets its first answer."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from datetime import timedelta
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool

from auditor.api.replay import Replay
from auditor.api.rights import RIGHTS, Right, require
from auditor.api.server import Server, server_of
from auditor.contracts.problems import problems_in
from auditor.errors import InvalidInput, NotAllowed, NotFound, NotSignedIn, StorageFailure, TooLarge, UnderWay
from auditor.service.people import Identity

COOKIE = "auditor_session"
MAX_BODY_BYTES = 2 << 20
"""Of every request but a part of an upload, which is streamed."""
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_KEYED = frozenset({"POST", "DELETE"})
"""Methods whose repetition does something else than the first request; the others do the same."""
WAIT_S, LOOK_S = 10.0, 0.1
"""How long a repeated request waits for the answer to the first one, and how often it looks."""

Handle = Callable[[Request], Coroutine[Any, Any, Response]]


class GuardedRoute(APIRoute):
    """A route that is only reached by whoever the table of rights lets through."""

    streams_body = False

    def get_route_handler(self) -> Handle:
        """The route's own handler behind the guard."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            server, right = server_of(request), RIGHTS[request.method, self.path]
            identity = await run_in_threadpool(_identify, server, request, right)
            require(right, identity)
            request.state.identity = identity
            self._check_query(request)
            if self.streams_body:
                return await handle(request)
            await _read_body(request)
            self._check_body(await request.body())
            key = request.headers.get("idempotency-key")
            if key is None or identity is None or request.method not in _KEYED or not right.replayed:
                return await handle(request)
            return await _replayed(server, identity, key, request, handle)

        return guarded

    def _check_query(self, request: Request) -> None:
        """Refuse parameters that the route does not know."""
        known = [str(field.alias) for field in self.dependant.query_params]
        unknown = sorted(set(request.query_params) - set(known))
        if "\0" in request.url.path or "%00" in str(request.url):
            raise InvalidInput("the address holds a NUL character")
        if unknown:
            listing = f"Known: {', '.join(known)}." if known else "There are none here."
            raise InvalidInput([f"query: unknown parameter '{name[:100]}'. {listing}" for name in unknown])

    def _check_body(self, body: bytes) -> None:
        """All problems at once, where nothing is read as what it is not: no number comes from `true` or `"3"`."""
        model = None if self.body_field is None else self.body_field.field_info.annotation
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return
        if b"\\u0000" in body:
            raise InvalidInput("the body holds a NUL character")
        try:
            model.model_validate_json(body or b"{}", strict=True)
        except ValidationError as error:
            raise InvalidInput(
                problems_in(error, model), remedy="Correct the listed problems and send it again."
            ) from None


class StreamedRoute(GuardedRoute):
    """A guarded route that reads its body itself, as it comes."""

    streams_body = True


def needs_encryption(request: Request) -> bool:
    """Whether cookies may only travel over TLS: everywhere but on plain HTTP at an address of this machine.

    A proxy may name any host, so what it says of the browser's connection counts, and the address that is configured.
    """
    public = server_of(request).settings.public_url or ""
    forwarded = request.headers.get("x-forwarded-proto", "").partition(",")[0].strip()
    schemes = {request.url.scheme, forwarded.lower(), public.partition(":")[0].lower()}
    return "https" in schemes or request.url.hostname not in _LOCAL


def _identify(server: Server, request: Request, right: Right) -> Identity | None:
    """Who asks; a session's changes must carry the token that no other site can know."""
    address = request.client.host if request.client else "unknown"
    proves = right.role is None and request.method not in _SAFE
    if proves:
        server.sign_ins.take(address)
    identity = identity_of(request)
    if identity is None:
        if not proves:
            (server.requests if _bearer(request) is None else server.wrong_tokens).take(address)
        return None
    server.requests.take(identity.key)
    if identity.csrf_token is not None and request.method not in _SAFE and right.role is not None:
        given = request.headers.get("x-csrf-token", "")
        if not hmac.compare_digest(given.encode(), identity.csrf_token.encode()):
            raise NotAllowed("the header X-CSRF-Token is missing or wrong", remedy="`GET /api/v1/session` tells it.")
    return identity


def identity_of(request: Request) -> Identity | None:
    """Whose token or session the request carries; None where it is not valid, or no longer."""
    people, secret = server_of(request).people, _bearer(request)
    if secret is not None:
        return people.of_token(secret)
    cookie = request.cookies.get(COOKIE)
    return None if cookie is None else people.of_session(cookie)


def _bearer(request: Request) -> str | None:
    header = request.headers.get("authorization")
    if header is None:
        return None
    scheme, _, secret = header.partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise NotSignedIn("the header Authorization is not `Bearer TOKEN`")
    return secret.strip()


async def _read_body(request: Request) -> None:
    """The whole body, as long as it is small."""
    announced = request.headers.get("content-length", "0")
    parts: list[bytes] = []
    size = int(announced) if announced.isdigit() else 0
    if size <= MAX_BODY_BYTES:
        size = 0
        async for part in request.stream():
            size += len(part)
            if size > MAX_BODY_BYTES:
                break
            parts.append(part)
    if size > MAX_BODY_BYTES:
        raise TooLarge(f"the request has more than {MAX_BODY_BYTES} bytes", remedy="Send files through /uploads.")
    request._body = b"".join(parts)


async def _replayed(
    server: Server, identity: Identity, key: str, request: Request, handle: Callable[[Request], Awaitable[Response]]
) -> Response:
    """The first answer to a request with this key, which only the first one works for."""
    lease = timedelta(seconds=server.settings.lease_s)
    replay = Replay(server.services.database, server.services.clock, identity, key, lease, server.key)
    what = (request.method, request.url.path, await request.body())
    known = await _begun(replay, what)
    if known is not None:
        status, body = known
        headers = {"Idempotent-Replayed": "true"}
        return Response(body, status, headers, media_type="application/json" if body else None)
    request.state.request_id = replay.request_id(*what)
    renewing = asyncio.create_task(_renew(replay, server.settings.heartbeat_s))
    try:
        response = await _handled(handle, request, replay)
    except BaseException:
        await _end(renewing)
        await run_in_threadpool(replay.forget)
        raise
    await _end(renewing)
    await run_in_threadpool(replay.keep, response.status_code, bytes(response.body))
    return response


async def _begun(replay: Replay, what: tuple[str, str, bytes]) -> tuple[int, str] | None:
    """As `Replay.begin`; while another process works on the request, its answer is waited for."""
    give_up = time.monotonic() + WAIT_S
    while True:
        try:
            return await run_in_threadpool(replay.begin, *what)
        except UnderWay:
            if time.monotonic() + LOOK_S > give_up:
                raise
        await asyncio.sleep(LOOK_S)


async def _handled(handle: Callable[[Request], Awaitable[Response]], request: Request, replay: Replay) -> Response:
    """What a process that died had deleted is gone as it was asked for, and not unknown."""
    try:
        return await handle(request)
    except NotFound:
        if request.method == "DELETE" and replay.is_heir:
            return Response(status_code=204)
        raise


async def _renew(replay: Replay, every_s: float) -> None:
    """Until cancelled."""
    while True:
        await asyncio.sleep(every_s)
        with suppress(StorageFailure):  # the next time, or never: then another process may take over
            await run_in_threadpool(replay.renew)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})
