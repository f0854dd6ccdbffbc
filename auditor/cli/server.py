"""`serve`, `sweep`, `login`, `logout`: the server, and which one commands talk to."""

from __future__ import annotations

import importlib
import socket
import sys
from typing import Annotated

import typer

from auditor.cli.options import local_services, read_settings
from auditor.errors import InvalidInput


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("serve")(serve)
    app.command("login")(login)
    app.command("logout")(logout)
    app.command("sweep")(sweep)


def serve(
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on.")] = 8000,
) -> None:
    """Serve the HTTP API. While there is nobody, a one-time token for the first admin is printed."""
    importlib.import_module("auditor.api.serving").serve(read_settings(), host, port)


def login(
    url: Annotated[str, typer.Argument(help="Address of the server, https://audits.example.")],
    bootstrap: Annotated[
        bool, typer.Option("--bootstrap", help="Make the first admin, with the token that `serve` printed.")
    ] = False,
) -> None:
    """Store a token for a server: from then on, commands talk to it. The token is asked for, or read from stdin."""
    from auditor.client.client import Client
    from auditor.client.credentials import Credentials, check_url, store

    check_url(url)
    secret = _ask("Bootstrap token" if bootstrap else "Token (made on the server's page or with POST /tokens)")
    if bootstrap:
        secret = _first_admin(url, secret)
    with Client(url, secret) as client:
        me = client.me()
    path = store(read_settings(), Credentials(url=url, token=secret))
    typer.echo(f"{me.user.name} ({me.user.role}) of team {me.team.name} at {url}; stored in {path}", err=True)


def logout() -> None:
    """Forget server and token: commands work on this machine again. The token stays valid until it is revoked."""
    from auditor.client.credentials import forget

    typer.echo("forgotten" if forget(read_settings()) else "there was nothing to forget", err=True)


def sweep() -> None:
    """Delete pictures and private data whose time is over, by each team's retention; run it once a day."""
    from auditor.service.retention import Retention

    house, settings = local_services(), read_settings()
    retention = Retention(
        database=house.database,
        store=house.store,
        clock=house.clock,
        folder=settings.home / "uploads",
        caches=settings.home / "cache",
    )
    typer.echo(f"{retention.sweep()} artifacts deleted", err=True)


def _first_admin(url: str, secret: str) -> str:
    """Make the first admin and a token for this machine."""
    from pydantic import ValidationError

    from auditor.client.client import Client
    from auditor.contracts.people import Bootstrap, NewToken, Scope
    from auditor.contracts.problems import problems_in

    name, password = _ask("Name of the first admin", hidden=False), _ask("Password (12 characters or more)")
    try:
        request = Bootstrap(token=secret, name=name, password=password)
    except ValidationError as error:
        raise InvalidInput(problems_in(error, Bootstrap)) from None
    with Client(url) as client:
        client.bootstrap(request)
        client.sign_in(name, password)
        token_name = f"cli-{socket.gethostname()}"[:100].rstrip("-._")
        return client.make_token(NewToken(name=token_name, scopes=tuple(Scope))).secret


def _ask(what: str, *, hidden: bool = True) -> str:
    """From the terminal, or one line of stdin."""
    if sys.stdin.isatty():
        answer: str = typer.prompt(what, hide_input=hidden, err=True)
        return answer.strip()
    line = sys.stdin.readline().strip()
    if not line:
        raise InvalidInput(f"nothing was given on stdin for: {what}")
    return line
