"""What the routes work with: the use-cases of everyone, and those of the one who asks."""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request

from auditor.adapters.openid import OpenIdProvider
from auditor.adapters.openid_settings import provider_settings
from auditor.api.background import Background
from auditor.api.checks import CheckPlaces
from auditor.api.limits import RateLimit
from auditor.api.readiness import Readiness, looks_of
from auditor.bootstrap import Services
from auditor.errors import StorageFailure
from auditor.service.intake import Intake
from auditor.service.openid import OpenIdSignIn
from auditor.service.people import Identity, People
from auditor.service.repositories import Transactions
from auditor.service.reviews import Reviews
from auditor.service.team import TeamAffairs
from auditor.service.uploads import Uploads
from auditor.settings import Settings

PROOFS_PER_MINUTE = 20
"""Attempts to prove who one is, by address; those with tokens are counted apart, so that none keeps people out."""


@dataclass(frozen=True)
class Server:
    """One API process.

    Attributes:
        services: the use-cases over all teams.
        settings: where things are.
        key: signs addresses of pictures.
        background: runs units where no worker does.
        requests: by token, session, or address of who has none.
        sign_ins: attempts by address, with a password or through a provider.
        wrong_tokens: requests by address, with a token that is not valid.
        readiness: whether database and store answer.
        openid: where people may sign in too.
        checks: places for those of submissions.
    """

    services: Services
    settings: Settings
    key: bytes
    background: Background | None
    requests: RateLimit
    sign_ins: RateLimit
    wrong_tokens: RateLimit
    readiness: Readiness
    openid: OpenIdProvider | None = None
    checks: CheckPlaces = field(default_factory=lambda: CheckPlaces(1))

    @property
    def people(self) -> People:
        """Who is who."""
        return People(database=self.services.database, clock=self.services.clock)

    @property
    def openid_sign_in(self) -> OpenIdSignIn:
        """Who of them a provider vouches for."""
        by_email = self.openid is not None and self.openid.settings.by_email
        return OpenIdSignIn(database=self.services.database, clock=self.services.clock, by_email=by_email)


def build_server(services: Services, settings: Settings) -> Server:
    """Wire one process; raises InvalidInput where a provider is configured by half."""
    provider = provider_settings(settings)
    return Server(
        services=services,
        settings=settings,
        key=_signing_key(settings),
        background=Background(services.jobs, services.executor) if services.in_place else None,
        requests=RateLimit(settings.requests_per_minute, time.monotonic),
        sign_ins=RateLimit(PROOFS_PER_MINUTE, time.monotonic),
        wrong_tokens=RateLimit(PROOFS_PER_MINUTE, time.monotonic),
        readiness=Readiness(looks_of(services)),
        openid=None if provider is None else OpenIdProvider(provider, services.clock),
        checks=CheckPlaces(settings.concurrent_checks),
    )


def _signing_key(settings: Settings) -> bytes:
    """The configured key, or one that is made once and kept beside the data, readable by its owner alone."""
    if settings.secret_key is not None:
        return settings.secret_key.get_secret_value().encode()
    path = settings.home / "signing.key"
    try:
        settings.home.mkdir(parents=True, exist_ok=True)
        temporary = settings.home / f".signing.{secrets.token_hex(4)}"
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as handle:
            handle.write(secrets.token_hex(32))
        try:
            os.link(temporary, path)  # the first of several processes wins, and its key is whole
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
        return path.read_bytes()
    except OSError as error:
        raise StorageFailure(f"the signing key {path} cannot be kept: {error.strerror}") from error


class Caller:
    """Who asks, and all that can be done in their name; none of it reaches another team.

    Args:
        server: the process.
        identity: who asks.
        request_id: the same for every repetition of this request, if it may be repeated.
    """

    def __init__(self, server: Server, identity: Identity, request_id: str | None = None) -> None:
        self.server = server
        self.me = identity
        self.request_id = request_id
        self.services: Services = server.services.of_team(identity.team.id, identity.user.name)
        self.transactions: Transactions = server.services.database.of_team(identity.team.id)

    @property
    def affairs(self) -> TeamAffairs:
        """People, tokens, retention."""
        openid = self.server.openid
        issuer = None if openid is None else openid.settings.issuer
        return TeamAffairs(database=self.services.database, clock=self.services.clock, me=self.me, issuer=issuer)

    @property
    def reviews(self) -> Reviews:
        """Policies, baselines, waivers."""
        return Reviews(
            database=self.services.database, store=self.services.store, clock=self.services.clock, me=self.me
        )

    @property
    def uploads(self) -> Uploads:
        """Files."""
        return Uploads(
            database=self.services.database,
            store=self.services.store,
            clock=self.services.clock,
            me=self.me,
            folder=self._home / "uploads",
            max_bytes=self.server.settings.max_upload_bytes,
        )

    @property
    def intake(self) -> Intake:
        """Submissions made of files."""
        return Intake(
            database=self.services.database, store=self.services.store, me=self.me, scratch=self._home / "scratch"
        )

    @property
    def _home(self) -> Path:
        return self.server.settings.home


def server_of(request: Request) -> Server:
    """The process's own."""
    server: Server = request.app.state.server
    return server


def caller_of(request: Request) -> Caller:
    """The one who asks; the guard has seen to it that there is one."""
    return Caller(server_of(request), request.state.identity, getattr(request.state, "request_id", None))


TheCaller = Annotated[Caller, Depends(caller_of)]
TheServer = Annotated[Server, Depends(server_of)]
