"""A sign-in that is under way at a provider: what the browser must bring back for it to count."""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

LIFE = timedelta(minutes=10)
_LONGEST_TARGET = 1000
"""A longer address would not fit into a cookie."""


@dataclass(frozen=True)
class Journey:
    """One sign-in of one browser.

    Attributes:
        secret: known to this browser alone.
        team: where the person wants to sign in.
        target: the page to show then.
        until: seconds since 1970 at which it is over.
    """

    secret: str
    team: str
    target: str
    until: float

    @property
    def state(self) -> str:
        """Goes to the provider and comes back with the browser."""
        return self._derived("state")

    @property
    def nonce(self) -> str:
        """Goes to the provider and comes back within its token."""
        return self._derived("nonce")

    @property
    def verifier(self) -> str:
        """Proves to the provider that whoever redeems the code also asked for it (PKCE)."""
        return self._derived("verifier")

    def has_state(self, given: str) -> bool:
        """Whether an answer that came with `given` is one to this sign-in."""
        return hmac.compare_digest(self.state.encode(), given.encode("utf-8", "surrogatepass"))

    def _derived(self, purpose: str) -> str:
        return hmac.digest(self.secret.encode(), purpose.encode(), "sha256").hex()

    def sealed(self, key: bytes) -> str:
        """As a cookie, which nobody else can make."""
        told = json.dumps([self.secret, self.team, self.target, self.until]).encode()
        return f"{base64.urlsafe_b64encode(told).decode().rstrip('=')}.{_seal(key, told)}"


def begun(team: str, target: str, now: datetime) -> Journey:
    """A new one."""
    where = target if len(target) <= _LONGEST_TARGET else "/"
    return Journey(secrets.token_urlsafe(32), team[:100], where, (now + LIFE).timestamp())


def opened(cookie: str, key: bytes, now: datetime) -> Journey | None:
    """The one of this cookie; None where it is not ours, or is over."""
    text, _, seal = cookie.partition(".")
    try:
        told = base64.b64decode(text.encode() + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    if not hmac.compare_digest(_seal(key, told).encode(), seal.encode()):
        return None
    journey = Journey(*json.loads(told))
    return journey if now.timestamp() < journey.until else None


def _seal(key: bytes, told: bytes) -> str:
    return hmac.digest(key, b"openid sign-in:" + told, "sha256").hex()
