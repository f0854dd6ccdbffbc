"""The log of a worker or an API process: one JSON object a line on standard error, those of libraries included.

On a terminal the same lines are laid out for people.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

_FIELDS = [
    "job_id", "unit_id", "unit_key", "attempt", "team", "code", "seconds", "put_back", "announced", "swept", "gpu",
    "client", "method", "path", "status",
]  # fmt: skip
"""What a line may carry beside its event: anything else that a library attaches stays out."""
_PASSWORD = re.compile(r"(?<=://)[^\s/@]*@")


def set_up_logs(**_signal: object) -> None:
    """Send every log of this process through one formatter; a worker connects it to Celery's `setup_logging`."""
    is_terminal = sys.stderr.isatty()
    plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.ExtraAdder(_FIELDS),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            _without_passwords,
            plain if is_terminal else structlog.processors.JSONRenderer(sort_keys=True),
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)


def _without_passwords(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Addresses appear in libraries' errors; their user and password must not."""
    return {name: _PASSWORD.sub("***@", value) if isinstance(value, str) else value for name, value in line.items()}
