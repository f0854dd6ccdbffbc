"""`auditor serve`: one API process under uvicorn."""

from __future__ import annotations

import logging
import sys
from copy import deepcopy
from typing import Any

import uvicorn

from auditor.api.app import build_app
from auditor.bootstrap import UNIT_HANDLERS, build_services
from auditor.service.people import BOOTSTRAP_LIFE, People
from auditor.service.scratch import sweep
from auditor.settings import Settings


def serve(settings: Settings, host: str, port: int, *, handlers: str = UNIT_HANDLERS) -> None:
    """Serve until interrupted. While there is nobody, a one-time token for the first admin is printed.

    Args:
        settings: where things are.
        host: address to listen on.
        port: port to listen on.
        handlers: `module:function` of the runner's handler table.

    Raises:
        StorageFailure: the database cannot be used, or its schema is not the newest.
    """
    services = build_services(settings, handlers=handlers)
    try:
        sweep(settings.home / "scratch", older_than_s=2 * settings.unit_timeout_s)
        app = build_app(services, settings)
        people = People(database=services.database, clock=services.clock)
        if people.is_empty():
            tell_bootstrap(people.make_bootstrap_token(), host, port)
        uvicorn.run(app, host=host, port=port, **uvicorn_options(settings))
    finally:
        services.close()


def uvicorn_options(settings: Settings) -> dict[str, Any]:
    """Whose word counts for where a request comes from, and what is logged of it."""
    log: dict[str, Any] = deepcopy(uvicorn.config.LOGGING_CONFIG)
    log["filters"] = {"path": {"()": _PathAlone}}
    log["handlers"]["access"]["filters"] = ["path"]
    return {
        "proxy_headers": bool(settings.trusted_proxies),
        "forwarded_allow_ips": settings.trusted_proxies,
        "log_config": log,
        "log_level": "info",
        "server_header": False,
    }


class _PathAlone(logging.Filter):
    """Takes the query from a line of the access log: it may hold the signature of a picture, or a code to sign in."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keeps every line."""
        client, method, address, *rest = record.args  # type: ignore[misc]
        record.args = (client, method, str(address).partition("?")[0], *rest)
        return True


def tell_bootstrap(token: str, host: str, port: int) -> None:
    """On the terminal and nowhere else: it is not written to a log."""
    reached = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104
    minutes = int(BOOTSTRAP_LIFE.total_seconds() // 60)
    sys.stderr.write(
        f"There is nobody yet. Make the first admin within {minutes} minutes, once, with this token:\n\n"
        f"    {token}\n\n"
        f"    auditor login http://{reached}:{port} --bootstrap\n\n"
    )
    sys.stderr.flush()
