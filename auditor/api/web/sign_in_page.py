"""The page on which people sign in, whatever they came from."""

from __future__ import annotations

from typing import Any

from fastapi import Request, Response

from auditor.api.server import Server
from auditor.api.web.render import page


def sign_in_page(request: Request, server: Server, target: str, *, team: str, name: str = "", **told: Any) -> Response:
    """The form.

    Args:
        request: to which it is the answer.
        server: which knows whether there is a provider beside passwords.
        target: a page of this server, to show afterwards.
        team: as it was typed.
        name: as it was typed.
        told: problems, see `problems_of`.
    """
    provider = "" if server.openid is None else server.openid.settings.name
    return page(request, "sign_in.html.j2", next=target, team=team, name=name, provider=provider, **told)


def inside(address: str) -> str:
    """`address` if it is one of this server: a link to the sign-in page must not lead elsewhere afterwards."""
    plain = address.startswith("/") and not address.startswith(("//", "/\\")) and address.isprintable()
    return address if plain and "\\" not in address else "/"
