"""What the database knows of people and of what teams own beside audits, as frozen values.

Each record is one row: its fields are the columns.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any, ClassVar

from auditor.contracts.people import Role
from auditor.contracts.policy import RiskLevel

BOOTSTRAP = "bootstrap"
"""The only scope of the token that makes the first admin."""


@dataclass(frozen=True)
class Record:
    """Base of every record.

    Attributes:
        NOUN: what it is called in messages.
        UNIQUE: groups of fields that no two rows may share; a None is like no other.
        OWNER: the field that holds the owning team's id.
    """

    NOUN: ClassVar[str] = ""
    UNIQUE: ClassVar[tuple[tuple[str, ...], ...]] = ()
    OWNER: ClassVar[str] = "team_id"

    id: str
    created_at: datetime


@dataclass(frozen=True)
class Team(Record):
    """A tenant.

    Attributes:
        pictures_days: galleries are deleted after so many days; None: never.
        private_data_days: so is private data.
    """

    NOUN = "team"
    UNIQUE = (("name",),)
    OWNER = "id"

    name: str
    pictures_days: int | None = None
    private_data_days: int | None = None

    def pictures_before(self, now: datetime) -> datetime | None:
        """Pictures older than this are deleted; None: none are."""
        return None if self.pictures_days is None else now - timedelta(days=self.pictures_days)

    def private_before(self, now: datetime) -> datetime | None:
        """Private data older than this is deleted; None: none is."""
        return None if self.private_data_days is None else now - timedelta(days=self.private_data_days)


@dataclass(frozen=True)
class User(Record):
    """A person.

    Attributes:
        password_hash: argon2; None: cannot sign in with a password.
        failures: wrong passwords since the last right one.
        locked_until: no password is taken before this.
        email: lower case; whoever first comes with it from an OpenID Connect provider becomes `subject`.
        issuer: the provider that knows them; None: nobody has come from one.
        subject: who they are there.
    """

    NOUN = "user"
    UNIQUE = (("team_id", "name"), ("team_id", "email"), ("team_id", "issuer", "subject"))

    team_id: str
    name: str
    role: Role
    password_hash: str | None = None
    disabled: bool = False
    failures: int = 0
    locked_until: datetime | None = None
    email: str | None = None
    issuer: str | None = None
    subject: str | None = None


@dataclass(frozen=True)
class Token(Record):
    """An API token.

    Attributes:
        user_id: for whom it acts; None: the bootstrap token, which acts for nobody yet.
        digest: sha256 of the secret.
    """

    NOUN = "token"
    UNIQUE = (("digest",),)

    team_id: str
    user_id: str | None
    name: str
    digest: str
    scopes: tuple[str, ...]
    expires_at: datetime
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None


@dataclass(frozen=True)
class BrowserSession(Record):
    """Someone who signed in.

    Attributes:
        digest: sha256 of the cookie's secret.
    """

    NOUN = "session"
    UNIQUE = (("digest",),)

    team_id: str
    user_id: str
    digest: str
    expires_at: datetime


@dataclass(frozen=True)
class Trail(Record):
    """One line of the audit log; lines are only ever added."""

    NOUN = "entry"

    team_id: str
    who: str
    what: str
    subject: str
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Upload(Record):
    """A file that is being sent in parts.

    Attributes:
        received: bytes that have come.
        complete: all have come, their sha256 is right, and the store has them.
    """

    NOUN = "upload"

    team_id: str
    name: str
    size: int
    sha256: str
    created_by: str
    received: int = 0
    complete: bool = False


@dataclass(frozen=True)
class DataSet(Record):
    """A named data set.

    Attributes:
        digests: file name to artifact.
    """

    NOUN = "data set"
    UNIQUE = (("team_id", "name"),)

    team_id: str
    name: str
    digests: dict[str, str]
    size: int
    created_by: str


@dataclass(frozen=True)
class NamedPolicy(Record):
    """A policy by name; `policy` is the contract as JSON."""

    NOUN = "policy"
    UNIQUE = (("team_id", "name"),)

    team_id: str
    name: str
    policy: dict[str, Any]
    created_by: str


@dataclass(frozen=True)
class Baseline(Record):
    """The approved audit of a model, by the model's name.

    Attributes:
        findings: what the approval lets through, by key, and up to which level.
        digest: of the very bytes that were approved: audits of equal plans share an id, and may differ in results.
    """

    NOUN = "baseline"
    UNIQUE = (("team_id", "name"),)

    team_id: str
    name: str
    report_id: str
    job_id: str
    approver: str
    findings: dict[str, str] = field(default_factory=dict)
    digest: str = ""


@dataclass(frozen=True)
class StoredWaiver(Record):
    """A finding that is let through until `expires_at`, the end of a day."""

    NOUN = "waiver"

    team_id: str
    finding: str
    model: str
    reason: str
    approver: str
    expires_at: datetime
    up_to: str = RiskLevel.HIGH

    @property
    def last_day(self) -> date:
        """On which it still counts (UTC)."""
        return (self.expires_at - timedelta(microseconds=1)).date()


@dataclass(frozen=True)
class Answer(Record):
    """What a request with an Idempotency-Key was answered; the id is made of user and key.

    Attributes:
        digest: sha256 over method, path and body: the key may not be used for another request.
        status: of the answer; None: the request is still being worked on.
    """

    NOUN = "answer"
    UNIQUE = (("id",),)

    team_id: str
    digest: str
    status: int | None = None
    body: str = ""
