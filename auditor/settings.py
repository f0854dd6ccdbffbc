"""The only reader of environment variables (prefix AUDITOR_)."""

from __future__ import annotations

import math
import os
from ipaddress import ip_network
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


def _default_home() -> Path:
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "auditor"


class Settings(BaseSettings):
    """Where things are stored and how work is run. Flags win over these; these win over auditor.yaml."""

    model_config = SettingsConfigDict(env_prefix="AUDITOR_", extra="ignore", frozen=True, allow_inf_nan=False)

    home: Path = Field(default_factory=_default_home)
    """Data folder: SQLite file, artifacts, caches."""
    database_url: SecretStr | None = None
    """SQLAlchemy URL; unset means SQLite under `home`."""
    broker_url: SecretStr | None = None
    """Redis URL of the Celery broker; unset means jobs run in place."""
    artifacts: str | None = None
    """`s3://bucket/prefix`; unset means a folder under `home`. Credentials are found as boto3 finds them."""
    s3_endpoint: str | None = None
    """Address of an S3-compatible server other than Amazon's."""
    encryption_keys: SecretStr | None = None
    """Keys that artifacts are encrypted with: base64 of 32 bytes, the newest first, separated by commas."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`, `cpu` or `cuda`: what the runner computes on."""
    unit_timeout_s: int = 6 * 3600
    """Wall-clock limit of one unit of work in the runner process."""
    runner_memory_bytes: int | None = Field(default=None, ge=0, lt=2**63)
    """Memory that a runner process may have to itself; unset: nine tenths of what is there; 0: no limit."""
    isolation: Literal["auto", "required", "off"] = "auto"
    """Of the runner process: `required` refuses to compute where network and files cannot be taken from it."""
    threads: int = 0
    """Compute threads of the runner; 0 leaves the choice to torch."""
    lease_s: float = Field(default=60.0, gt=0)
    """A unit whose worker, or a request whose API process, was not heard of for this long is given to another one."""
    heartbeat_s: float = Field(default=5.0, gt=0)
    """Seconds between signs of life; also how soon it sees that a job was cancelled."""
    reap_s: float = Field(default=15.0, gt=0)
    """Seconds between a worker's looks for lost units and lost announcements."""
    max_attempts: int = Field(default=3, ge=1)
    """How often a unit is tried whose worker, runner process or storage fails. Its own failure is never tried again."""
    retry_delay_s: float = Field(default=5.0, ge=0)
    """Seconds before the second try; each further one waits twice as long."""
    team_units: int = Field(default=0, ge=0)
    """Units of one team that may run at a time; 0 means no limit."""
    github_step_summary: Path | None = Field(default=None, validation_alias="GITHUB_STEP_SUMMARY")
    """Set by GitHub Actions: the file to which a step appends its summary."""

    @field_validator("heartbeat_s")
    @classmethod
    def _a_lease_outlives_it(cls, given: float, those_before: ValidationInfo) -> float:
        if those_before.data.get("lease_s", math.inf) < 2 * given:
            raise ValueError("AUDITOR_LEASE_S must be at least twice AUDITOR_HEARTBEAT_S")
        return given

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, given: str) -> str:
        for name in [] if given.strip() in ("", "*") else given.split(","):
            ip_network(name.strip(), strict=False)
        return given

    @field_validator(
        "secret_key",
        "github_step_summary",
        "public_url",
        "oidc_issuer",
        "oidc_client_id",
        "oidc_client_secret",
        "oidc_client_secret_file",
        mode="before",
    )
    @classmethod
    def _empty_is_unset(cls, given: object) -> object:
        return None if isinstance(given, str) and not given.strip() else given

    server_url: str | None = None
    """Address of the server that commands talk to; unset means the one `auditor login` stored, or this machine."""
    token: SecretStr | None = None
    """Token for that server."""
    secret_key: SecretStr | None = Field(default=None, min_length=16)
    """Signs addresses of pictures and what is kept of requests; unset means a key file under `home`.

    All API processes need the same one. Whoever guesses it can sign too: `openssl rand -hex 32` makes a good one.
    """
    max_upload_bytes: int = 8 << 30
    """Largest file that may be uploaded."""
    requests_per_minute: int = Field(default=600, ge=1)
    """Requests of one token or session, in each API process, before it is told to wait."""
    trusted_proxies: str = ""
    """Addresses or networks of proxies whose `X-Forwarded-For` is believed, separated by commas; `*`: any.

    Unset means none: limits by address then count all who come through a proxy together.
    """
    concurrent_checks: int = Field(default=2, ge=1)
    """Submissions that one API process checks at a time; others wait. One team never takes the last place."""
    check_timeout_s: float = Field(default=120.0, gt=0)
    """Seconds that a server checks one submission; one that takes longer is refused."""
    public_url: str | None = Field(default=None, pattern=r"^https?://[A-Za-z0-9\[][^\s?#]*$")
    """Address at which browsers reach this server, `https://audits.example`; needed for OpenID Connect.

    With https, cookies travel over nothing else.
    """
    oidc_issuer: str | None = None
    """Address of the OpenID Connect provider through which people may sign in too; unset means passwords alone."""
    oidc_client_id: str | None = None
    """Who this server is at that provider."""
    oidc_client_secret: SecretStr | None = None
    """How it proves that."""
    oidc_client_secret_file: Path | None = None
    """A file that holds the client secret, instead of `oidc_client_secret`."""
    oidc_name: str = "single sign-on"
    """What the provider is called on the sign-in page."""
    oidc_scopes: str = "openid email"
    """What the provider is asked for, separated by spaces."""
    oidc_match: Literal["email", "subject"] = "email"
    """How people are found when they first come: by their verified e-mail or subject, or by their subject alone."""

    @property
    def effective_database_url(self) -> str:
        """The SQLAlchemy URL in use."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.home / 'auditor.db'}"
