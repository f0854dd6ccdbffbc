"""An OpenID Connect provider: the authorization code flow with PKCE, and what its token is worth.

Nothing is kept between sign-ins: its description and keys are fetched each time, so a change there needs no restart.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote_plus

import httpx
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core import CodeIDToken
from authlib.oidc.discovery import get_well_known_url
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import JWKRegistry, Key, KeySet

from auditor.adapters.openid_settings import ProviderSettings, is_guarded
from auditor.errors import NotSignedIn, ProviderUnavailable
from auditor.service.openid import Vouched, printable, vouched
from auditor.service.ports import Clock

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512")
"""Those with which nobody who can read the provider's keys can sign; so neither `none` nor `HS256`."""
LEEWAY_S = 60
"""By so much may its clock and ours differ."""
_MAX_BYTES = 1 << 20
_LOG = logging.getLogger("auditor.openid")


class OpenIdProvider:
    """One provider.

    Args:
        settings: where it is, and who this server is there.
        clock: the time.
    """

    def __init__(self, settings: ProviderSettings, clock: Clock) -> None:
        self.settings = settings
        self._clock = clock

    def address(self, *, state: str, nonce: str, verifier: str) -> str:
        """Where somebody proves to it who they are; raises ProviderUnavailable."""
        with self._client() as client:
            described = self._described(client)
        address: str = prepare_grant_uri(
            described["authorization_endpoint"],
            self.settings.client_id,
            "code",
            redirect_uri=self.settings.redirect_uri,
            scope=list(self.settings.scopes),
            state=state,
            nonce=nonce,
            code_challenge=create_s256_code_challenge(verifier),
            code_challenge_method="S256",
        )
        return address

    def redeem(self, code: str, *, nonce: str, verifier: str) -> Vouched:
        """Whom the code stands for.

        Raises:
            NotSignedIn: the provider does not take the code, or its token is not for this sign-in.
            ProviderUnavailable: it cannot be reached, or does not keep to its protocol.
        """
        with self._client() as client:
            described = self._described(client)
            answer = self._token(client, described, code, verifier)
            keys = self._json(client.build_request("GET", described["jwks_uri"]), client)
        token = answer.get("id_token")
        if not isinstance(token, str):
            raise self._unavailable("it sent no id_token")
        return vouched(self.settings.issuer, self._claims(token, _usable(keys), nonce, answer.get("access_token")))

    def _client(self) -> httpx.Client:
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        hooks = {"response": [self._bound]}
        return httpx.Client(timeout=self.settings.timeout_s, headers=headers, event_hooks=hooks)

    def _bound(self, response: httpx.Response) -> None:
        """Before a body is read: no more of it than there can rightly be, and no longer."""
        if isinstance(response.stream, httpx.SyncByteStream):
            response.stream = _Bounded(response.stream, time.monotonic() + self.settings.timeout_s)

    def _described(self, client: httpx.Client) -> Mapping[str, str]:
        """Its own description, which must be about the configured issuer and lead to nothing unencrypted."""
        place = get_well_known_url(self.settings.issuer, external=True)
        described = self._json(client.build_request("GET", place), client)
        if described.get("issuer") != self.settings.issuer:
            raise self._unavailable("its description names another issuer")
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
            if not isinstance(described.get(name), str) or not is_guarded(described[name]):
                raise self._unavailable(f"its description has no usable {name}")
        return described

    def _token(self, client: httpx.Client, described: Mapping[str, Any], code: str, verifier: str) -> dict[str, Any]:
        client_id, secret = self.settings.client_id, self.settings.client_secret
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": self.settings.redirect_uri}
        form["code_verifier"] = verifier
        known = described.get("token_endpoint_auth_methods_supported")
        auth: httpx.Auth | None = None
        if isinstance(known, list) and "client_secret_basic" not in known and "client_secret_post" in known:
            form |= {"client_id": client_id, "client_secret": secret}
        else:
            auth = httpx.BasicAuth(quote_plus(client_id), quote_plus(secret))
        return self._json(client.build_request("POST", described["token_endpoint"], data=form), client, auth)

    def _json(self, request: httpx.Request, client: httpx.Client, auth: httpx.Auth | None = None) -> dict[str, Any]:
        """The object it answers; a refused code is the only error that is not its own."""
        try:
            answer = client.send(request, auth=auth)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unavailable(f"{request.url.path}: {type(error).__name__}") from error
        try:
            body = answer.json()
        except ValueError:
            body = None
        if answer.status_code in (400, 401) and isinstance(body, dict) and body.get("error") == "invalid_grant":
            raise NotSignedIn("the provider did not take the code: it was used already, or is too old")
        if answer.status_code != 200 or not isinstance(body, dict):
            told = body.get("error") if isinstance(body, dict) else None
            raise self._unavailable(f"{request.url.path}: status {answer.status_code}, {str(told)[:100]!r}")
        return body

    def _claims(self, token: str, keys: KeySet, nonce: str, access_token: object) -> Mapping[str, Any]:
        """What the token says, once it is shown to be the issuer's, for us, now, and for this sign-in."""
        options = {
            "iss": {"essential": True, "value": self.settings.issuer},
            "aud": {"essential": True, "value": self.settings.client_id},
        }
        params = {"nonce": nonce, "client_id": self.settings.client_id, "access_token": access_token}
        try:
            decoded = jwt.decode(token, keys, algorithms=ALGORITHMS)
            claims = CodeIDToken(decoded.claims, decoded.header, options, params)
            claims.validate(now=int(self._clock.now().timestamp()), leeway=LEEWAY_S)
        except (JoseError, ValueError) as error:
            reason = str(error) if isinstance(error, JoseError) else type(error).__name__
            raise NotSignedIn(f"the provider's token cannot be trusted ({printable(reason)})") from None
        found: Mapping[str, Any] = claims
        return found

    def _unavailable(self, reason: str) -> ProviderUnavailable:
        """Told to the log alone: people cannot do anything about it."""
        _LOG.error("the OpenID Connect provider %s: %s", self.settings.issuer, reason)
        return ProviderUnavailable(f"{self.settings.name} cannot be used at the moment")


class _Bounded(httpx.SyncByteStream):
    """The bytes of an answer, of a limited number and until a deadline."""

    def __init__(self, stream: httpx.SyncByteStream, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for part in self._stream:
            size += len(part)
            if size > _MAX_BYTES:
                raise httpx.ReadError("the answer is too large")
            if time.monotonic() > self._deadline:
                raise httpx.ReadTimeout("the answer takes too long")
            yield part

    def close(self) -> None:
        """Give the connection back."""
        self._stream.close()


def _usable(keys: Mapping[str, Any]) -> KeySet:
    """Its public keys; secrets that anybody can read there are none, and what a key says it is for is heeded later."""
    listed = keys.get("keys")
    found: list[Key] = []
    for item in listed if isinstance(listed, list) else ():
        if isinstance(item, dict) and item.get("kty") in ("RSA", "EC"):
            try:
                found.append(JWKRegistry.import_key(item))
            except (JoseError, ValueError, TypeError, KeyError):
                continue
    return KeySet(found)
