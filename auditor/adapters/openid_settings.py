"""What the settings say of the OpenID Connect provider, all problems at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from auditor.errors import InvalidInput
from auditor.settings import Settings

CALLBACK = "/sign-in/openid/done"
"""Where the provider sends people back to; registered there as a whole address."""
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_GIVEN = ("oidc_issuer", "oidc_client_id", "oidc_client_secret", "oidc_client_secret_file")


@dataclass(frozen=True)
class ProviderSettings:
    """A provider, and who this server is there.

    Attributes:
        issuer: its address, letter for letter as it names itself.
        redirect_uri: where it sends people back to.
        name: what it is called on pages.
        by_email: whether people may be found by a verified e-mail when they first come.
        timeout_s: of each request to it.
    """

    issuer: str
    client_id: str
    client_secret: str
    redirect_uri: str
    name: str = "single sign-on"
    scopes: tuple[str, ...] = ("openid", "email")
    by_email: bool = True
    timeout_s: float = 5.0


def provider_settings(settings: Settings) -> ProviderSettings | None:
    """None where no provider is configured.

    Raises:
        InvalidInput: it is configured by half, or wrongly.
    """
    if all(getattr(settings, name) is None for name in _GIVEN):
        return None
    problems: list[str] = []
    secret = _client_secret(settings, problems)
    for name in ("oidc_issuer", "oidc_client_id", "public_url"):
        if getattr(settings, name) is None:
            problems.append(f"AUDITOR_{name.upper()} is missing")
    issuer, public = settings.oidc_issuer or "", (settings.public_url or "").rstrip("/")
    if settings.oidc_issuer is not None and (len(issuer) > 500 or not _is_plain(issuer)):
        problems.append("AUDITOR_OIDC_ISSUER is no https:// address without query (http:// is for this machine alone)")
    if settings.public_url is not None and (public.count("/") != 2 or not _is_plain(public)):
        problems.append("AUDITOR_PUBLIC_URL is no https:// address without path (http:// is for this machine alone)")
    scopes = tuple(settings.oidc_scopes.split())
    if "openid" not in scopes:
        problems.append("AUDITOR_OIDC_SCOPES lacks 'openid'")
    if settings.oidc_match == "email" and "email" not in scopes:
        problems.append("AUDITOR_OIDC_SCOPES lacks 'email', by which AUDITOR_OIDC_MATCH=email finds people")
    if not (0 < len(settings.oidc_name.strip()) <= 60 and settings.oidc_name.isprintable()):
        problems.append("AUDITOR_OIDC_NAME has not 1 to 60 printable characters")
    if problems:
        raise InvalidInput(problems, remedy="Correct the AUDITOR_ variables, or unset all AUDITOR_OIDC_ ones.")
    return ProviderSettings(
        issuer=issuer,
        client_id=settings.oidc_client_id or "",
        client_secret=secret,
        redirect_uri=public + CALLBACK,
        name=settings.oidc_name.strip(),
        scopes=scopes,
        by_email=settings.oidc_match == "email",
    )


def is_guarded(address: str) -> bool:
    """Whether what is sent there is encrypted, or stays on this machine."""
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    if not host or parts.username is not None or not address.isprintable() or " " in address:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and host in _LOOPBACK)


def _is_plain(address: str) -> bool:
    return is_guarded(address) and not set("?#") & set(address)


def _client_secret(settings: Settings, problems: list[str]) -> str:
    given, file = settings.oidc_client_secret, settings.oidc_client_secret_file
    if given is not None and file is not None:
        problems.append("AUDITOR_OIDC_CLIENT_SECRET and AUDITOR_OIDC_CLIENT_SECRET_FILE are both set")
    if given is None and file is None:
        problems.append("AUDITOR_OIDC_CLIENT_SECRET (or AUDITOR_OIDC_CLIENT_SECRET_FILE) is missing")
    if given is not None or file is None:
        return "" if given is None else given.get_secret_value()
    return _read(file, problems)


def _read(file: Path, problems: list[str]) -> str:
    try:
        secret = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        problems.append(f"AUDITOR_OIDC_CLIENT_SECRET_FILE cannot be read: {reason}")
        return ""
    if not secret:
        problems.append("AUDITOR_OIDC_CLIENT_SECRET_FILE is empty")
    return secret
