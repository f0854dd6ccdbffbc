"""Who is there: the first admin, signing in, and who a secret belongs to. Every door with a lock uses this."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import timedelta
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from auditor.contracts.people import Bootstrap, Role, Scope, SignIn
from auditor.errors import NotSignedIn
from auditor.service.accounts import BOOTSTRAP, BrowserSession, Team, Token, User
from auditor.service.ports import Clock
from auditor.service.records import LOCAL_TEAM
from auditor.service.repositories import Database
from auditor.service.trail import note

TOKEN_PREFIX = "aud_"  # noqa: S105 - by which secret scanners know it
BOOTSTRAP_LIFE = timedelta(hours=1)
SESSION_LIFE = timedelta(hours=12)
LOCK_AFTER, LOCKED_FOR = 5, timedelta(minutes=15)
"""So many wrong passwords one after the other, and for so long none is taken."""
_USED_EVERY = timedelta(minutes=1)
_WRONG = "the team, the name or the password is wrong, or too many wrong ones came before"
_PASSWORDS = PasswordHasher()


@dataclass(frozen=True)
class Identity:
    """Who asks, and what they may do.

    Attributes:
        scopes: of the token; all of them for a session.
        csrf_token: what a session must send along to change anything; None for a token.
        key: names the credential in rate limits.
    """

    user: User
    team: Team
    scopes: frozenset[Scope]
    csrf_token: str | None
    key: str

    @property
    def is_operator(self) -> bool:
        """Whether it is an admin of the team that runs the installation."""
        return self.user.role is Role.ADMIN and self.team.id == LOCAL_TEAM


def new_secret() -> str:
    """256 random bits, recognisable as ours."""
    return TOKEN_PREFIX + secrets.token_urlsafe(32)


def digest_of_secret(secret: str) -> str:
    """What is stored of a secret: it has 256 bits, so no salt and no slow hash is needed."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def csrf_token_of(secret: str) -> str:
    """The token that goes with a session's cookie; nobody who cannot read the cookie can make it."""
    return hmac.digest(secret.encode("utf-8", "surrogatepass"), b"csrf", "sha256").hex()


def hash_password(password: str) -> str:
    """argon2id with a salt of its own."""
    return _PASSWORDS.hash(password)


def _verify(password: str, stored: str | None) -> bool:
    """Takes as long for a person who does not exist, or has no password, as for a wrong one."""
    try:
        matches = _PASSWORDS.verify(stored or _dummy_hash(), password)
    except (VerificationError, InvalidHashError):
        return False
    return matches and stored is not None


@cache
def _dummy_hash() -> str:
    return hash_password(secrets.token_hex(16))


class People:
    """Sign-in and identification, over all teams.

    Args:
        database: the database.
        clock: the time.
    """

    def __init__(self, *, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def is_empty(self) -> bool:
        """Whether there is nobody yet."""
        with self._database() as tx:
            return not tx.users.page(1)

    def make_bootstrap_token(self) -> str:
        """A secret with which the first admin can be made, once, within the hour."""
        secret, now = new_secret(), self._clock.now()
        with self._database() as tx:
            tx.tokens.add(
                Token(
                    id=secrets.token_hex(16),
                    created_at=now,
                    team_id=LOCAL_TEAM,
                    user_id=None,
                    name=BOOTSTRAP,
                    digest=digest_of_secret(secret),
                    scopes=(BOOTSTRAP,),
                    expires_at=now + BOOTSTRAP_LIFE,
                )
            )
        return secret

    def bootstrap(self, request: Bootstrap) -> User:
        """Make the first admin.

        Raises:
            NotSignedIn: the token is wrong, old or used, or there is an admin already.
        """
        now = self._clock.now()
        with self._database() as tx:
            token = tx.tokens.find(digest=digest_of_secret(request.token))
            good = token is not None and token.scopes == (BOOTSTRAP,) and token.expires_at > now
            if not good or token is None or tx.users.page(1):
                raise NotSignedIn(
                    "the bootstrap token is wrong, used or older than an hour, or there is an admin already",
                    remedy="Start `auditor serve` again: while there is nobody it prints a new one.",
                )
            if not tx.tokens.change(token.id, {"revoked_at": None}, revoked_at=now):
                raise NotSignedIn("the bootstrap token was used already")
            user = User(
                secrets.token_hex(16), now, LOCAL_TEAM, request.name, Role.ADMIN, hash_password(request.password)
            )
            tx.users.add(user)
            note(tx, user, "user.create", user.name, now, role=user.role, by="bootstrap token")
        return user

    def sign_in(self, request: SignIn) -> tuple[str, Identity]:
        """The secret of a new session.

        Raises:
            NotSignedIn: with one and the same answer whatever was wrong; another where it was right until just now.
        """
        with self._database() as tx:
            team = tx.teams.find(name=request.team)
            user = None if team is None else tx.users.find(team_id=team.id, name=request.name)
        right = self.is_password_of(user, request.password)
        if user is None or team is None or not right:
            raise NotSignedIn(_WRONG)
        return self.open_session(user, team)

    def is_password_of(self, user: User | None, password: str) -> bool:
        """Whether somebody proves with it who they are; a wrong one counts, and after some none is taken."""
        right = _verify(password, None if user is None else user.password_hash)
        return user is not None and self._takes_password(user.id, right=right)

    def open_session(self, user: User, team: Team, *, by: str = "password") -> tuple[str, Identity]:
        """A session for someone who proved who they are, `by` a password or otherwise.

        Raises:
            NotSignedIn: what ends a person's sessions came meanwhile.
        """
        secret, now = secrets.token_urlsafe(32), self._clock.now()
        with self._database() as tx:
            if _ways_in(tx.users.get(user.id, lock=True)) != _ways_in(user):
                raise NotSignedIn("how you may sign in was changed just now", remedy="Sign in again.")
            tx.sessions.add(
                BrowserSession(
                    secrets.token_hex(16), now, team.id, user.id, digest_of_secret(secret), now + SESSION_LIFE
                )
            )
            note(tx, user, "session.start", user.name, now, by=by)
        return secret, _of_session(user, team, secret)

    def _takes_password(self, user_id: str, *, right: bool) -> bool:
        """Whether a password lets somebody in. Wrong ones are counted, also those that come at the same moment."""
        now = self._clock.now()
        with self._database() as tx:
            user = tx.users.get(user_id, lock=True)
            if user.locked_until is not None and user.locked_until > now:
                return False
            if right and not user.disabled:
                return tx.users.change(user.id, failures=0, locked_until=None)
            failures = user.failures + 1
            locked = now + LOCKED_FOR if failures >= LOCK_AFTER else None
            tx.users.change(user.id, failures=0 if locked else failures, locked_until=locked)
            note(tx, user, "session.refused", user.name, now, locked="yes" if locked else "no")
            return False

    def sign_out(self, secret: str) -> None:
        """End a session."""
        with self._database() as tx:
            session = tx.sessions.find(digest=digest_of_secret(secret))
            if session is not None:
                tx.sessions.remove(session.id)

    def of_session(self, secret: str) -> Identity | None:
        """Who signed in with this cookie; None when nobody did, or it is over."""
        now = self._clock.now()
        with self._database() as tx:
            session = tx.sessions.find(digest=digest_of_secret(secret))
            if session is None or session.expires_at <= now:
                return None
            user, team = tx.users.get(session.user_id), tx.teams.get(session.team_id)
        return None if user.disabled else _of_session(user, team, secret)

    def of_token(self, secret: str) -> Identity | None:
        """For whom this token acts; None when it is unknown, expired or revoked."""
        now = self._clock.now()
        with self._database() as tx:
            token = tx.tokens.find(digest=digest_of_secret(secret))
            if token is None or token.user_id is None or token.revoked_at is not None or token.expires_at <= now:
                return None
            user, team = tx.users.get(token.user_id), tx.teams.get(token.team_id)
            if user.disabled:
                return None
            if token.last_used_at is None or now - token.last_used_at >= _USED_EVERY:
                tx.tokens.change(token.id, last_used_at=now)
        scopes = frozenset(Scope(scope) for scope in token.scopes)
        return Identity(user, team, scopes, csrf_token=None, key=token.id)


def _ways_in(user: User) -> tuple[object, ...]:
    """What proves who somebody is: where an admin changes it, the sessions end that were opened with it."""
    return user.password_hash, user.email, user.issuer, user.subject, user.disabled


def _of_session(user: User, team: Team, secret: str) -> Identity:
    return Identity(user, team, frozenset(Scope), csrf_token_of(secret), key=digest_of_secret(secret))
