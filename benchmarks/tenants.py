"""Teams and their tokens on a new server, made over HTTP as its first admin would make them."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from auditor.client import Client
from auditor.contracts.people import Bootstrap, NewTeam, NewToken


def make_tenants(url: str, bootstrap_token: str, tokens: Mapping[str, int]) -> dict[str, list[str]]:
    """So many tokens of each team, by the team's name. Each admin signs in with a password once."""
    name, password = "ann", secrets.token_hex(16)
    with Client(url) as operator:
        operator.bootstrap(Bootstrap(token=bootstrap_token, name=name, password=password))
        operator.sign_in(name, password)
        for team in tokens:
            operator.make_team(NewTeam(name=team, admin=name, password=password))
    return {team: _tokens_of(url, team, (name, password), count) for team, count in tokens.items()}


def _tokens_of(url: str, team: str, who: tuple[str, str], count: int) -> list[str]:
    with Client(url) as admin:
        admin.sign_in(*who, team)
        return [admin.make_token(NewToken(name=f"client-{number}")).secret for number in range(count)]
