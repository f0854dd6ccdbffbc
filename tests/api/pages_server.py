"""An API process of its own: `python pages_server.py HOME` makes one admin, prints the address and serves."""

import secrets
import socket
import sys
from pathlib import Path

import uvicorn

from auditor.api.app import build_app
from auditor.bootstrap import build_services, migrate
from auditor.contracts.people import Role
from auditor.service.accounts import User
from auditor.service.people import hash_password
from auditor.service.records import LOCAL_TEAM
from auditor.settings import Settings

HANDLERS = "auditor.testing.reviewing:reviewed_handlers"

if __name__ == "__main__":
    settings = Settings(home=Path(sys.argv[1]), device="cpu", requests_per_minute=1_000_000)
    migrate(settings)
    services = build_services(settings, handlers=HANDLERS)
    with services.database() as tx:
        hashed = hash_password(sys.argv[2])
        tx.users.add(User(secrets.token_hex(16), services.clock.now(), LOCAL_TEAM, "ann", Role.ADMIN, hashed))
    listening = socket.create_server(("127.0.0.1", 0))
    print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)  # noqa: T201
    config = uvicorn.Config(build_app(services, settings), log_level="warning")
    uvicorn.Server(config).run(sockets=[listening])
    services.close()
