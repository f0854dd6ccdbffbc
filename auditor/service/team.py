"""Use-cases of an admin, and of everyone on themselves: people, tokens, retention; and of the operator: teams."""

from __future__ import annotations

import secrets
from dataclasses import replace
from datetime import timedelta

from auditor.contracts.people import NewTeam, NewToken, NewUser, Retention, Role, Scope, UserChange
from auditor.errors import Conflict, InvalidInput, NotFound
from auditor.service.accounts import Team, Token, User
from auditor.service.people import Identity, digest_of_secret, hash_password, new_secret
from auditor.service.ports import Clock
from auditor.service.repositories import Database, UnitOfWork
from auditor.service.trail import note


class TeamAffairs:
    """What is done in the name of one person in their team.

    Args:
        database: the database.
        clock: the time.
        me: who does it.
    """

    def __init__(self, *, database: Database, clock: Clock, me: Identity) -> None:
        self._database = database
        self._transactions = database.of_team(me.team.id)
        self._clock = clock
        self._me = me

    def add_user(self, request: NewUser) -> User:
        """Raises Conflict when the name is taken."""
        password = None if request.password is None else hash_password(request.password)
        user = User(secrets.token_hex(16), self._clock.now(), self._me.team.id, request.name, request.role, password)
        with self._transactions() as tx:
            tx.users.add(user)
            self._note(tx, "user.create", user.name, role=user.role)
        return user

    def change_user(self, user_id: str, change: UserChange) -> User:
        """A new password or a disabled account ends the person's sessions.

        Raises:
            NotFound: no such person in the team.
            Conflict: the team would have no admin left.
        """
        values = {name: value for name, value in change.model_dump().items() if value is not None}
        told = {name: str(value) for name, value in values.items() if name != "password"}
        if "password" in values:
            values["password_hash"] = hash_password(values.pop("password"))
            values |= {"failures": 0, "locked_until": None}
            told["password"] = "changed"  # noqa: S105
        with self._transactions() as tx:
            user = tx.users.get(user_id)
            if values:
                tx.users.change(user.id, **values)
            if not [other for other in tx.users.page(1000, role=Role.ADMIN) if not other.disabled]:
                raise Conflict("the team would have no admin left", remedy="Make someone else an admin first.")
            if "password_hash" in values or change.disabled:
                _end_sessions(tx, user)
            self._note(tx, "user.change", user.name, **told)
            return tx.users.get(user.id)

    def change_own_password(self, password: str) -> None:
        """Ends all of one's own sessions."""
        with self._transactions() as tx:
            tx.users.change(self._me.user.id, password_hash=hash_password(password))
            _end_sessions(tx, self._me.user)
            self._note(tx, "user.change", self._me.user.name, password="changed")  # noqa: S106

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
        """One's own, or as an admin any of the team; raises NotFound for another's."""
        with self._transactions() as tx:
            token = tx.tokens.get(token_id)
            if token.user_id != self._me.user.id and self._me.user.role is not Role.ADMIN:
                raise NotFound(f"there is no token '{token_id}'")
            if tx.tokens.change(token.id, {"revoked_at": None}, revoked_at=self._clock.now()):
                self._note(tx, "token.revoke", token.id, name=token.name)

    def set_retention(self, wanted: Retention) -> Team:
        """For how long the team keeps pictures and private data."""
        with self._transactions() as tx:
            tx.teams.change(self._me.team.id, **wanted.model_dump())
            told = {name: str(value) for name, value in wanted.model_dump().items()}
            self._note(tx, "retention.change", self._me.team.name, **told)
        return replace(self._me.team, **wanted.model_dump())

    def add_team(self, request: NewTeam) -> Team:
        """A team with its first admin; for the operator. Raises Conflict when the name is taken."""
        now = self._clock.now()
        team = Team(secrets.token_hex(16), now, request.name)
        admin = User(secrets.token_hex(16), now, team.id, request.admin, Role.ADMIN, hash_password(request.password))
        with self._database() as tx:
            tx.teams.add(team)
            tx.users.add(admin)
            self._note(tx, "team.create", team.name, admin=admin.name)
        return team

    def _note(self, tx: UnitOfWork, what: str, subject: str, **detail: str) -> None:
        note(tx, self._me.user, what, subject, self._clock.now(), **detail)


def _end_sessions(tx: UnitOfWork, user: User) -> None:
    while found := tx.sessions.find(user_id=user.id):
        tx.sessions.remove(found.id)
