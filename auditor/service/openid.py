"""Signing in as whom an OpenID Connect provider vouches for. Nobody is made here: an admin has added them before."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from auditor.contracts.people import Email, Subject
from auditor.errors import NotSignedIn
from auditor.service.accounts import Team, User
from auditor.service.people import Identity, People
from auditor.service.ports import Clock
from auditor.service.records import LOCAL_TEAM
from auditor.service.repositories import Database, UnitOfWork
from auditor.service.trail import note, note_stranger

_EMAIL: TypeAdapter[str] = TypeAdapter(Email)
_SUBJECT: TypeAdapter[str] = TypeAdapter(Subject)
_LOG = logging.getLogger("auditor.openid")


@dataclass(frozen=True)
class Vouched:
    """Whom a provider vouches for.

    Attributes:
        issuer: the provider.
        subject: who they are there.
        email: lower case; None where the provider names none, or does not say that it is theirs.
    """

    issuer: str
    subject: str
    email: str | None = None


def vouched(issuer: str, claims: Mapping[str, Any]) -> Vouched:
    """What the claims of a verified token say; raises NotSignedIn where they name nobody."""
    try:
        subject = _SUBJECT.validate_python(claims.get("sub"), strict=True)
    except ValidationError:
        raise NotSignedIn("the provider named nobody that could be told apart") from None
    if claims.get("email_verified") is not True:
        return Vouched(issuer, subject)
    try:
        return Vouched(issuer, subject, _EMAIL.validate_python(claims.get("email"), strict=True))
    except ValidationError:
        return Vouched(issuer, subject)


def printable(text: str) -> str:
    """Of what strangers wrote, as much as may stand in a log and on a page."""
    return "".join(character for character in text if character.isprintable())[:100]


class OpenIdSignIn:
    """Finds the person, binds them to who they are at the provider when they first come, and opens their session.

    Args:
        database: the database.
        clock: the time.
        by_email: whether somebody who has not come yet is found by a verified e-mail.
    """

    def __init__(self, *, database: Database, clock: Clock, by_email: bool) -> None:
        self._database = database
        self._clock = clock
        self._by_email = by_email

    def sign_in(self, team_name: str, who: Vouched) -> tuple[str, Identity]:
        """The secret of a new session.

        Raises:
            NotSignedIn: the team does not exist, has nobody like this, or has disabled them: which, is not told.
        """
        with self._database() as tx:
            team = tx.teams.find(name=team_name)
            user = None if team is None else self._person(tx, team, who)
        if team is None or user is None or user.disabled:
            self._note_unknown(team_name, who, user)
            raise NotSignedIn(self._answer(team_name, who), remedy="Ask an admin of the team to add you with it.")
        people = People(database=self._database, clock=self._clock)
        return people.open_session(user, team, by="openid")

    def note_refusal(self, team_name: str, reason: str) -> None:
        """Write down that an answer of the provider was not taken, whoever it was about."""
        _LOG.warning("sign-in through the provider refused: %s", reason)
        with self._database() as tx:
            self._note(tx, team_name, "(unknown)", reason=reason)

    def _person(self, tx: UnitOfWork, team: Team, who: Vouched) -> User | None:
        """An e-mail counts only until somebody has come with it: whoever has it later is not the same person."""
        known = tx.users.find(team_id=team.id, issuer=who.issuer, subject=who.subject)
        if known is not None or who.email is None or not self._by_email:
            return known
        invited = tx.users.find(team_id=team.id, email=who.email, subject=None)
        if invited is None or invited.disabled:
            return invited
        unbound = {"subject": None, "email": who.email, "disabled": False}
        if not tx.users.change(invited.id, unbound, issuer=who.issuer, subject=who.subject):
            return None
        now = self._clock.now()
        note(tx, invited, "user.bind", invited.name, now, issuer=who.issuer, sub=who.subject, email=who.email)
        return tx.users.get(invited.id)

    def _answer(self, team_name: str, who: Vouched) -> str:
        email = f"the e-mail '{who.email}' or " if self._by_email and who.email else ""
        unverified = " (it vouches for no e-mail of yours)" if self._by_email and not who.email else ""
        return (
            f"the provider knows you, but nobody in the team '{team_name}' may sign in with {email}"
            f"the subject '{who.subject}'{unverified}"
        )

    def _note_unknown(self, team_name: str, who: Vouched, user: User | None) -> None:
        reason = "unknown" if user is None else "disabled"
        name = user.name if user is not None else who.email or who.subject
        with self._database() as tx:
            self._note(tx, team_name, name, reason=reason, issuer=who.issuer, sub=who.subject)

    def _note(self, tx: UnitOfWork, team_name: str, subject: str, **detail: str) -> None:
        """In the log of the team that was asked for; where there is none, in that of whoever runs the installation."""
        team = tx.teams.find(name=team_name)
        detail |= {"by": "openid"} if team is not None else {"by": "openid", "team": team_name}
        note_stranger(
            tx, LOCAL_TEAM if team is None else team.id, "session.refused", subject, self._clock.now(), **detail
        )
