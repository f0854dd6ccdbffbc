"""`auditor serve`: one API process under uvicorn."""

from __future__ import annotations

import logging
import sys
from typing import Any

import uvicorn

from auditor.adapters.logs import set_up_logs
from auditor.api.app import build_app
from auditor.bootstrap import UNIT_HANDLERS, build_services
from auditor.errors import InvalidInput
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
        InvalidInput: it cannot listen there.
    """
    set_up_logs()
    services = build_services(settings, handlers=handlers)
    try:
        services.verdicts.judge_anew()
        sweep(settings.home / "scratch", older_than_s=2 * settings.unit_timeout_s)
        app = build_app(services, settings)
        people = People(database=services.database, clock=services.clock)
        if people.is_empty():
            tell_bootstrap(people.make_bootstrap_token(), host, port)
        uvicorn.run(app, host=host, port=port, **uvicorn_options(settings))
    except SystemExit as stopped:  # with codes of its own, after it said why
        if stopped.code:
            raise InvalidInput(
                f"the server did not start on {host}:{port}", remedy="The lines above say why; is the port in use?"
            ) from None
    finally:
        services.close()


def uvicorn_options(settings: Settings) -> dict[str, Any]:
    """Whose word counts for where a request comes from, and what is logged of it."""
    logging.getLogger("uvicorn.access").addFilter(_as_request)
    return {
        "proxy_headers": bool(settings.trusted_proxies),
        "forwarded_allow_ips": settings.trusted_proxies,
        "log_config": None,
        "log_level": "info",
        "server_header": False,
    }


def _as_request(record: logging.LogRecord) -> bool:
    """A line of the access log with fields, and without the query: that may hold a picture's signature or a code."""
    if record.args:
        client, method, address, _version, status = record.args  # type: ignore[misc]
        record.msg, record.args = "request", ()
        vars(record).update(client=client, method=method, path=str(address).partition("?")[0], status=status)
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
