"""People and their rights, as the API says and takes them."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from auditor.contracts.base import Contract

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,99}$")]
"""Of teams, users, tokens, data sets and policies."""
Password = Annotated[str, Field(min_length=12, max_length=200)]
Email = Annotated[str, Field(max_length=254, pattern=r"^[!-?A-~]+@[A-Za-z0-9.-]+$"), AfterValidator(str.lower)]
"""In lower case. ASCII alone: letters that look alike or become another's when lowered are nobody's address."""
Subject = Annotated[str, Field(pattern=r"^[!-~]([ -~]{0,253}[!-~])?$")]
"""Who somebody is at an OpenID Connect provider: never given to anyone else there."""
ISO8601 = str
"""A time in UTC, as ISO 8601."""


class Role(StrEnum):
    """What a person may do in their team, least first; each may do all that the ones before it may."""

    SUBMITTER = "submitter"
    """Submits, reads reports, asks for repairs."""
    REVIEWER = "reviewer"
    """Sees reconstructions, waives, approves baselines, writes policies, reads the audit log."""
    ADMIN = "admin"
    """Manages people and retention; in the team `local` also other teams."""

    @property
    def rank(self) -> int:
        """0 (submitter) to 2 (admin)."""
        return list(Role).index(self)


class Scope(StrEnum):
    """What a token may be used for; a session has them all."""

    READ = "read"
    SUBMIT = "submit"
    REVIEW = "review"
    ADMIN = "admin"
    METRICS = "metrics"


class TeamView(Contract):
    """A team."""

    id: str
    name: str
    created_at: ISO8601


class NewTeam(Contract):
    """A team to make, with its first admin."""

    name: Name
    admin: Name
    password: Password


class Retention(Contract):
    """After how many days a team's sensitive data is deleted; None: never. Reports and verdicts stay."""

    pictures_days: int | None = Field(default=None, ge=1, le=36500)
    """Galleries, and the reconstructions they are made from."""
    private_data_days: int | None = Field(default=None, ge=1, le=36500)
    """Private images and what was fitted to them, of jobs that ended; uploads and data sets."""


class OpenIdInvitation(Contract):
    """Who may sign in as this person through the OpenID Connect provider; neither: nobody."""

    email: Email | None = None
    """The first who comes with this verified address; from then on only the subject that they had."""
    subject: Subject | None = None
    """Whoever the provider knows as this."""

    @model_validator(mode="after")
    def _one_of_them(self) -> OpenIdInvitation:
        if self.email is not None and self.subject is not None:
            raise ValueError("give the e-mail or the subject, not both")
        return self


class OpenIdView(Contract):
    """How somebody signs in through an OpenID Connect provider."""

    email: str | None = None
    """The address they were invited by."""
    issuer: str | None = None
    """None: they have not come yet."""
    subject: str | None = None


class UserView(Contract):
    """A person."""

    id: str
    name: str
    role: Role
    disabled: bool
    created_at: ISO8601
    openid: OpenIdView | None = None
    """None: not through a provider."""


class NewUser(Contract):
    """A person to add to the team."""

    name: Name
    role: Role = Role.SUBMITTER
    password: Password | None = None
    """None: signs in another way."""
    openid: OpenIdInvitation | None = None


class UserChange(Contract):
    """What to change of a person; None leaves it."""

    role: Role | None = None
    disabled: bool | None = None
    password: Password | None = None
    """Ends the person's sessions."""
    openid: OpenIdInvitation | None = None
    """Replaces how they sign in through the provider, and ends their sessions; empty takes it from them."""


class TokenView(Contract):
    """A token, without its secret."""

    id: str
    name: str
    user: str
    """Name of the person it acts for."""
    scopes: tuple[Scope, ...]
    created_at: ISO8601
    expires_at: ISO8601
    last_used_at: ISO8601 | None = None
    revoked: bool = False


class NewToken(Contract):
    """A token to make for oneself."""

    name: Name
    scopes: tuple[Scope, ...] = (Scope.READ, Scope.SUBMIT)
    days: int = Field(default=90, ge=1, le=366)
    """Until it expires."""


class MadeToken(Contract):
    """A new token: the only time its secret is told."""

    token: TokenView
    secret: str


class SignIn(Contract):
    """Team, name and password."""

    team: Name = "local"
    name: Name
    password: str = Field(max_length=200)


class Bootstrap(Contract):
    """The first admin, made with the one-time token that `auditor serve` printed."""

    token: str = Field(max_length=200)
    name: Name
    password: Password


class Me(Contract):
    """Who is signed in."""

    user: UserView
    team: TeamView
    scopes: tuple[Scope, ...]
    csrf_token: str | None = None
    """Sent back as `X-CSRF-Token` with every change made by a session; None for tokens, which need none."""


class TrailEntry(Contract):
    """One line of the audit log."""

    id: str
    at: ISO8601
    who: str
    what: str
    """`picture.view`, `waiver.create`, ..."""
    subject: str
    """Id or name of what it was done to."""
    detail: dict[str, str] = {}
