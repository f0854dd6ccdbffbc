"""Use-cases of an admin, and of everyone on themselves: people, tokens, retention; and of the operator: teams."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from auditor.contracts.people import NewTeam, NewToken, NewUser, OpenIdInvitation, Retention, Role, Scope, UserChange
from auditor.errors import Conflict, InvalidInput, NotAllowed, NotFound
from auditor.service.accounts import Team, Token, User
from auditor.service.people import Identity, People, digest_of_secret, hash_password, new_secret
from auditor.service.ports import Clock
from auditor.service.records import Place
from auditor.service.repositories import GIVEN, Database, UnitOfWork
from auditor.service.trail import note


class TeamAffairs:
    """What is done in the name of one person in their team.

    Args:
        database: the database.
        clock: the time.
        me: who does it.
        issuer: the OpenID Connect provider that is configured, if there is one.
    """

    def __init__(self, *, database: Database, clock: Clock, me: Identity, issuer: str | None = None) -> None:
        self._database = database
        self._transactions = database.of_team(me.team.id)
        self._clock = clock
        self._me = me
        self._issuer = issuer

    def add_user(self, request: NewUser, request_id: str | None = None) -> User:
        """Once for each `request_id`; raises Conflict when the name, the e-mail or the subject is taken."""
        password = None if request.password is None else hash_password(request.password)
        user_id, now = request_id or secrets.token_hex(16), self._clock.now()
        user = User(user_id, now, self._me.team.id, request.name, request.role, password)
        told = {"role": str(user.role)}
        if request.openid is not None:
            user = replace(user, **self._invited(request.openid))
            told["openid"] = _told(request.openid)
        with self._transactions() as tx:
            made = tx.users.find(id=user.id)
            if made is not None:
                return made
            self._require_free(tx, user)
            tx.users.add(user)
            self._note(tx, "user.create", user.name, **told)
        return user

    def change_user(self, user_id: str, change: UserChange) -> User:
        """A new password, another way in through the provider, or a disabled account ends the person's sessions.

        A new password, or another way in than the one through which somebody has come, also revokes their tokens: they
        may have been made by whom they were not meant for. So does a disabled account, which may be enabled again.

        Raises:
            NotAllowed: one's own password, which `change_own_password` asks the current one for.
            NotFound: no such person in the team.
            Conflict: the team would have no admin left, or the e-mail or the subject is taken.
        """
        if user_id == self._me.user.id and change.password is not None:
            raise NotAllowed("one's own password is changed with the current one", remedy="`PUT /session/password`.")
        values = {name: value for name, value in change.model_dump(exclude={"openid"}).items() if value is not None}
        told = {name: str(value) for name, value in values.items() if name != "password"}
        if "password" in values:
            values["password_hash"] = hash_password(values.pop("password"))
            values |= {"failures": 0, "locked_until": None}
            told["password"] = "changed"  # noqa: S105
        if change.openid is not None:
            values |= self._invited(change.openid)
            told["openid"] = _told(change.openid)
        with self._transactions() as tx:
            tx.teams.get(self._me.team.id, lock=True)  # of two admins who demote each other, the second is refused
            user = tx.users.get(user_id)
            if change.openid is not None:
                self._require_free(tx, replace(user, **self._invited(change.openid)))
            if values:
                tx.users.change(user.id, **values)
            if not [other for other in tx.users.page(1000, role=Role.ADMIN) if not other.disabled]:
                raise Conflict("the team would have no admin left", remedy="Make someone else an admin first.")
            if "password_hash" in values or change.openid is not None or change.disabled:
                _end_sessions(tx, user)
            self._note(tx, "user.change", user.name, **told)
            was_bound = change.openid is not None and user.subject is not None
            if was_bound or user.disabled or change.disabled or "password_hash" in values:
                self._revoke_tokens(tx, user)
            return tx.users.get(user.id)

    def change_own_password(self, password: str, current: str | None) -> None:
        """Ends all of one's own sessions.

        Raises:
            NotAllowed: `current` is not one's password of now, or one has none and asks with a token.
            Conflict: the password was changed meanwhile.
        """
        with self._transactions() as tx:
            me = tx.users.get(self._me.user.id)
        if me.password_hash is None and self._me.csrf_token is None:
            raise NotAllowed("a first password is not set with a token", remedy="Sign in, or ask an admin.")
        people = People(database=self._database, clock=self._clock)
        if me.password_hash is not None and not people.is_password_of(me, current or ""):
            raise NotAllowed(
                "the current password is missing or wrong, or too many wrong ones came before",
                remedy="Give it too; after five wrong passwords none is taken for 15 minutes.",
            )
        new = hash_password(password)
        with self._transactions() as tx:
            if not tx.users.change(me.id, {"password_hash": me.password_hash}, password_hash=new):
                raise Conflict("the password was changed just now", remedy="Sign in with it, or ask an admin.")
            _end_sessions(tx, self._me.user)
            self._note(tx, "user.change", self._me.user.name, password="changed")  # noqa: S106

    def tokens(self, limit: int, after: Place | None = None) -> Sequence[tuple[Token, str]]:
        """One's own, as an admin those of all people of the team; newest first, with the person's name."""
        of = GIVEN if self._rules_tokens() else self._me.user.id
        with self._transactions() as tx:
            tokens = tx.tokens.page(limit, after, user_id=of)
            names = {user_id: tx.users.get(user_id).name for user_id in {str(token.user_id) for token in tokens}}
        return [(token, names[str(token.user_id)]) for token in tokens]

    def make_token(self, request: NewToken) -> tuple[Token, str]:
        """A token for oneself, and its secret, which is told this once.

        Raises:
            InvalidInput: scopes that the one who asks has not.
        """
        beyond = [scope for scope in request.scopes if scope not in self._me.scopes]
        if beyond or not request.scopes:
            raise InvalidInput(
                [f"scopes: you do not have '{scope}' yourself" for scope in beyond] or "scopes: name at least one",
                remedy=f"Ask for some of {', '.join(scope for scope in Scope if scope in self._me.scopes)}.",
            )
        secret, now = new_secret(), self._clock.now()
        token = Token(
            id=secrets.token_hex(16),
            created_at=now,
            team_id=self._me.team.id,
            user_id=self._me.user.id,
            name=request.name,
            digest=digest_of_secret(secret),
            scopes=tuple(dict.fromkeys(request.scopes)),
            expires_at=now + timedelta(days=request.days),
        )
        with self._transactions() as tx:
            tx.tokens.add(token)
            self._note(tx, "token.create", token.id, name=token.name, scopes=" ".join(token.scopes))
        return token, secret

    def revoke_token(self, token_id: str) -> None:
        """One's own, or as an admin any of the team; raises NotFound for another's.

        With a token an admin needs the scope `admin` for those of others.
        """
        with self._transactions() as tx:
            token = tx.tokens.get(token_id)
            if token.user_id != self._me.user.id and not self._rules_tokens():
                raise NotFound(f"there is no token '{token_id}'")
            self._revoke(tx, token)

    def _rules_tokens(self) -> bool:
        """Whether the tokens of others are theirs to see and to revoke."""
        return self._me.user.role is Role.ADMIN and Scope.ADMIN in self._me.scopes

    def set_retention(self, wanted: Retention) -> Team:
        """For how long the team keeps pictures and private data."""
        with self._transactions() as tx:
            tx.teams.change(self._me.team.id, **wanted.model_dump())
            told = {name: str(value) for name, value in wanted.model_dump().items()}
            self._note(tx, "retention.change", self._me.team.name, **told)
        return replace(self._me.team, **wanted.model_dump())

    def add_team(self, request: NewTeam, request_id: str | None = None) -> Team:
        """A team with its first admin, once for each `request_id`; for the operator.

        Raises Conflict when the name is taken.
        """
        now = self._clock.now()
        team = Team(request_id or secrets.token_hex(16), now, request.name)
        admin = User(secrets.token_hex(16), now, team.id, request.admin, Role.ADMIN, hash_password(request.password))
        with self._database() as tx:
            made = tx.teams.find(id=team.id)
            if made is not None:
                return made
            tx.teams.add(team)
            tx.users.add(admin)
            self._note(tx, "team.create", team.name, admin=admin.name)
        return team

    def _invited(self, wanted: OpenIdInvitation) -> dict[str, Any]:
        """The fields that say so; a subject is somebody at today's provider, and at no later one."""
        if self._issuer is None and wanted != OpenIdInvitation():
            raise InvalidInput(
                "openid: no OpenID Connect provider is configured",
                remedy="Leave it out; the operator configures a provider with AUDITOR_OIDC_ISSUER.",
            )
        issuer = None if wanted.subject is None else self._issuer
        return {"email": wanted.email, "issuer": issuer, "subject": wanted.subject}

    @staticmethod
    def _require_free(tx: UnitOfWork, user: User) -> None:
        """Raises Conflict where someone else in the team has this e-mail or this subject."""
        others = [
            tx.users.find(email=user.email) if user.email is not None else None,
            tx.users.find(issuer=user.issuer, subject=user.subject) if user.subject is not None else None,
        ]
        for other in others:
            if other is not None and other.id != user.id:
                raise Conflict(
                    f"openid: '{user.email or user.subject}' is '{other.name}' already",
                    remedy=f"Change '{other.name}' first, or name another.",
                )

    def _revoke_tokens(self, tx: UnitOfWork, user: User) -> None:
        while (token := tx.tokens.find(user_id=user.id, revoked_at=None)) is not None:
            self._revoke(tx, token)

    def _revoke(self, tx: UnitOfWork, token: Token) -> None:
        if tx.tokens.change(token.id, {"revoked_at": None}, revoked_at=self._clock.now()):
            self._note(tx, "token.revoke", token.id, name=token.name)

    def _note(self, tx: UnitOfWork, what: str, subject: str, **detail: str) -> None:
        note(tx, self._me.user, what, subject, self._clock.now(), **detail)


def _told(wanted: OpenIdInvitation) -> str:
    return wanted.email or wanted.subject or "removed"


def _end_sessions(tx: UnitOfWork, user: User) -> None:
    while found := tx.sessions.find(user_id=user.id):
        tx.sessions.remove(found.id)
