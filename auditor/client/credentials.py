"""Where `auditor login` keeps server and token: one file, readable by its owner alone."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import ValidationError

from auditor.contracts.base import Contract
from auditor.errors import InvalidInput, NotSignedIn, StorageFailure
from auditor.settings import Settings


class Credentials(Contract):
    """A server and a token for it."""

    url: str
    token: str


def credentials_of(settings: Settings) -> Credentials | None:
    """The server that commands talk to, and the token; None: there is none, everything happens here.

    Raises:
        NotSignedIn: a server is named, but there is no token for it.
    """
    stored = _read(_path(settings))
    url = settings.server_url or (None if stored is None else stored.url)
    if url is None:
        return None
    check_url(url)
    if settings.token is not None:
        return Credentials(url=url, token=settings.token.get_secret_value())
    if stored is None or stored.url.rstrip("/") != url.rstrip("/"):
        raise NotSignedIn(f"there is no token for {url}", remedy=f"Run `auditor login {url}`, or set AUDITOR_TOKEN.")
    return stored


def store(settings: Settings, credentials: Credentials) -> Path:
    """Keep them; the file is never readable by others, not even for a moment."""
    path = _path(settings)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as handle:
            handle.write(credentials.model_dump_json())
        temporary.replace(path)
    except OSError as error:
        raise StorageFailure(f"{path} could not be written: {error.strerror}") from error
    return path


def forget(settings: Settings) -> bool:
    """Whether there was anything to forget."""
    path = _path(settings)
    there = path.exists()
    path.unlink(missing_ok=True)
    return there


def _path(settings: Settings) -> Path:
    return settings.home / "credentials.json"


def _read(path: Path) -> Credentials | None:
    try:
        return Credentials.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError):
        raise StorageFailure(f"{path} cannot be read", remedy="Run `auditor login URL` again.") from None


def check_url(url: str) -> None:
    """A token goes over an encrypted connection, or does not leave this machine."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidInput(
            f"'{url}' is not the address of a server", remedy="Give https://NAME, or http://localhost:8000."
        )
    if parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise InvalidInput(f"{url} is not encrypted: a token sent there can be read on its way", remedy="Use https://.")
