"""A real API server in a process of its own, on a port that stays the same when it is started again."""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Mapping

from auditor.settings import Settings
from auditor.testing.process import OwnProcess

_CODE = """
from auditor.api.serving import serve
from auditor.settings import Settings
serve(Settings(), "127.0.0.1", {port}, handlers={handlers!r})
"""


class ApiProcess(OwnProcess):
    """What `auditor serve` runs, which is ready when it listens.

    Args:
        settings: whose database is migrated.
        handlers: `module:function` of the runner's handler table.
        environment: further variables.
        code: what the process runs in place of `serve` with these arguments.
    """

    NOUN, READY, END = "api", " running on ", signal.SIGINT

    def __init__(
        self, settings: Settings, *, handlers: str, environment: Mapping[str, str] | None = None, code: str = _CODE
    ) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{port}"
        super().__init__(settings, code.format(port=port, handlers=handlers), environment)

    @property
    def bootstrap_token(self) -> str:
        """What it printed for the first admin."""
        found = re.search(r"^ +(aud_\S+)$", self.text, re.MULTILINE)
        if found is None:
            raise RuntimeError("the server printed no bootstrap token")
        return found[1]
