"""A little OpenID Connect provider over HTTP, which can be told to misbehave, and a browser that walks through it."""

import base64
import hashlib
import json
import secrets
import socket
import time
from contextlib import contextmanager
from dataclasses import replace
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
from api_house import installed, serving
from authlib.oidc.core.util import create_half_hash
from fastapi import FastAPI, Form, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, RSAKey
from pages_house import parsed, told

from auditor.adapters.openid import OpenIdProvider
from auditor.api.server import build_server
from auditor.contracts.people import Role, Scope
from auditor.service.records import LOCAL_TEAM
from auditor.settings import Settings

CLIENT, SECRET = "auditor-test", "the client's secret / with + signs"
CALLBACK = "/sign-in/openid/done"
EMAIL = "ann@example.com"


class Provider:
    """Signs in whoever asks as `person`.

    Attributes:
        issuer: its address.
        person: the claims about whoever is in front of it.
        forge: makes the id_token out of the claims; None: as it should be.
        describe: changes its description.
        keys: what it publishes.
        asked: paths of all requests, in order.
    """

    def __init__(self, issuer):
        self.issuer = issuer
        self.key = RSAKey.generate_key(2048, {"kid": "one", "use": "sig"})
        self.reset()

    def reset(self):
        self.person = {"sub": "s-1", "email": EMAIL, "email_verified": True}
        self.forge, self.describe, self.auth_methods = None, {}, None
        self.keys = [self.key.as_dict(private=False)]
        self.codes, self.asked, self.used_auth = {}, [], None
        self.token_answer = None

    def sign(self, claims, *, key=None, header=None):
        """A token as any provider makes it."""
        key = key or self.key
        return jwt.encode({"alg": "RS256", "kid": key.kid} | (header or {}), claims, key)

    def app(self):
        app = FastAPI()

        @app.middleware("http")
        async def remember(request: Request, call_next):
            self.asked.append(request.url.path)
            return await call_next(request)

        @app.get("/.well-known/openid-configuration")
        def describe():
            described = {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/keys",
            }
            if self.auth_methods:
                described["token_endpoint_auth_methods_supported"] = self.auth_methods
            return {name: value for name, value in (described | self.describe).items() if value is not None}

        @app.get("/authorize")
        def authorize(request: Request):
            asked = dict(request.query_params)
            assert asked["response_type"] == "code"
            assert asked["client_id"] == CLIENT
            assert asked["code_challenge_method"] == "S256"
            assert "openid" in asked["scope"].split()
            code = secrets.token_urlsafe(16)
            self.codes[code] = (asked, dict(self.person))
            back = urlencode({"code": code, "state": asked["state"], "iss": self.issuer})
            return RedirectResponse(f"{asked['redirect_uri']}?{back}", 303)

        @app.get("/keys")
        def keys():
            return {"keys": self.keys}

        @app.post("/token")
        def token(
            request: Request,
            grant_type: str = Form(),
            code: str = Form(),
            redirect_uri: str = Form(),
            code_verifier: str = Form(),
            client_id: str = Form(""),
            client_secret: str = Form(""),
        ) -> Response:
            if self.token_answer is not None:
                return self.token_answer
            self.used_auth = "post" if client_id else "basic"
            given = f"{client_id}:{client_secret}" if client_id else _basic(request)
            asked, person = self.codes.pop(code, (None, None))
            challenge = base64.urlsafe_b64encode(hashlib.sha256(code_verifier.encode()).digest()).rstrip(b"=").decode()
            if given != f"{CLIENT}:{SECRET}":
                return JSONResponse({"error": "invalid_client"}, 401)
            if asked is None or asked["code_challenge"] != challenge or asked["redirect_uri"] != redirect_uri:
                return JSONResponse({"error": "invalid_grant"}, 400)
            assert grant_type == "authorization_code"
            return JSONResponse(self.tokens(asked, person))

        return app

    def tokens(self, asked, person):
        """What a code is redeemed for."""
        access, now = secrets.token_urlsafe(16), int(time.time())
        claims = {
            "iss": self.issuer,
            "aud": CLIENT,
            "exp": now + 300,
            "iat": now,
            "nonce": asked["nonce"],
            "at_hash": create_half_hash(access, "RS256").decode(),
        } | person
        token = self.sign(claims) if self.forge is None else self.forge(self, claims)
        return {"access_token": access, "token_type": "Bearer", "expires_in": 300, "id_token": token}


def _basic(request):
    from urllib.parse import unquote_plus

    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    name, _, secret = base64.b64decode(text).decode().partition(":")
    return f"{unquote_plus(name)}:{unquote_plus(secret)}" if scheme == "Basic" else ""


@contextmanager
def provided():
    """A provider that is running; its name is another site than the server's address is."""
    listening = socket.create_server(("127.0.0.1", 0))
    provider = Provider(f"http://localhost:{listening.getsockname()[1]}")
    with serving(provider.app(), listening):
        yield provider


def changed(**claims):
    """A token with other claims, rightly signed; None takes one out."""

    def forge(provider, right):
        return provider.sign({name: value for name, value in (right | claims).items() if value is not None})

    return forge


def unsigned(_provider, claims):
    """`alg: none`."""
    head = base64.urlsafe_b64encode(json.dumps({"alg": "none"}).encode()).rstrip(b"=").decode()
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"{head}.{body}."


def with_public_key_as_secret(provider, claims):
    """HS256, made by somebody who has read the provider's keys."""
    import hmac

    public = provider.key.as_pem(private=False)

    def part(value):
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

    signed = f"{part(json.dumps({'alg': 'HS256', 'kid': 'one'}).encode())}.{part(json.dumps(claims).encode())}"
    return f"{signed}.{part(hmac.digest(public, signed.encode(), 'sha256'))}"


def with_published_secret(provider, claims):
    """HS256 with a symmetric key that is in the provider's set for some other use."""
    shared = OctKey.generate_key(256, {"kid": "shared"})
    provider.keys = [*provider.keys, shared.as_dict(private=True)]
    return jwt.encode({"alg": "HS256", "kid": "shared"}, claims, shared, algorithms=["HS256"])


def with_foreign_key(provider, claims):
    """A key that the provider does not publish."""
    return provider.sign(claims, key=RSAKey.generate_key(2048, {"kid": "two"}))


def with_foreign_key_of_same_name(provider, claims):
    return provider.sign(claims, key=RSAKey.generate_key(2048, {"kid": "one"}))


def with_its_own_key(provider, claims):
    """The key travels in the header."""
    key = RSAKey.generate_key(2048, {"kid": "three"})
    return provider.sign(claims, key=key, header={"jwk": key.as_dict(private=False)})


def with_key_for_encryption(provider, claims):
    """A key of the provider that is not for signatures."""
    key = RSAKey.generate_key(2048, {"kid": "enc"})
    provider.keys = [*provider.keys, key.as_dict(private=False) | {"use": "enc"}]
    return provider.sign(claims, key=key)


def with_elliptic_key(provider, claims):
    """As good as RSA."""
    key = ECKey.generate_key("P-256", {"kid": "curve", "use": "sig"})
    provider.keys = [*provider.keys, key.as_dict(private=False)]
    claims = {name: value for name, value in claims.items() if name != "at_hash"}
    return jwt.encode({"alg": "ES256", "kid": "curve"}, claims, key)


class Browser:
    """Somebody at the pages, without JavaScript; cookies are kept for the server alone."""

    def __init__(self, url):
        self.url = url
        self.client = httpx.Client(base_url=url, timeout=60)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.close()

    def begin(self, team="local", target="/"):
        """The answer to `Sign in with ...`."""
        page = parsed(self.client.get("/sign-in", params={"next": target}).text)
        fields = {field.get("name"): field.get("value", "") for field in page.all("input")}
        (button,) = [button for button in page.all("button") if button.get("formaction")]
        return self.client.post(button.get("formaction"), data=fields | {"team": team})

    def to_provider(self, **more):
        """The address of the provider, as the page leads to it both ways."""
        answer = self.begin(**more)
        assert answer.status_code == 200, answer.text
        page = parsed(answer.text)
        (link,) = [link.get("href") for link in page.all("a") if link.get("rel")]
        (refresh,) = [meta.get("content") for meta in page.all("meta") if meta.get("http-equiv") == "refresh"]
        assert refresh == f"0; url={link}"
        return link

    def back(self, **more):
        """Path and parameters with which the provider sends the browser back."""
        answer = httpx.get(self.to_provider(**more))
        assert answer.status_code == 303, answer.text
        place = urlsplit(answer.headers["location"])
        assert f"{place.scheme}://{place.netloc}" == self.url
        return place.path, {name: values[0] for name, values in parse_qs(place.query).items()}

    def sign_in(self, **more):
        """The answer to a whole sign-in."""
        path, told = self.back(**more)
        return self.client.get(path, params=told)

    @property
    def session(self):
        return self.client.cookies.get("auditor_session")


@contextmanager
def installation(home, provider, **more):
    """An installation in which people may sign in through the provider."""
    listening = socket.create_server(("127.0.0.1", 0))
    settings = Settings(
        home=home,
        device="cpu",
        requests_per_minute=1_000_000,
        public_url=f"http://127.0.0.1:{listening.getsockname()[1]}",
        oidc_issuer=provider.issuer,
        oidc_client_id=CLIENT,
        oidc_client_secret=SECRET,
        oidc_name="Acme",
        **more,
    )
    with installed(settings, listening=listening) as house:
        yield house


def renewed(house):
    """Nobody is bound or invited yet, and nobody has tried to sign in."""
    house.app.state.server = build_server(house.services, house.settings)
    with house.services.database() as tx:
        for user in tx.users.page(1000):
            tx.users.change(user.id, email=None, issuer=None, subject=None, disabled=False)
    return house


@contextmanager
def other_provider(house, **changes):
    """For as long as the block lasts the server knows another provider."""
    server = house.app.state.server
    other = OpenIdProvider(replace(server.openid.settings, **changes), house.services.clock)
    house.app.state.server = replace(server, openid=other)
    try:
        yield
    finally:
        house.app.state.server = server


def invite(house, who, role=Role.ADMIN, team=LOCAL_TEAM):
    """Let an admin say how `role` signs in; their own token of the test is renewed, since the change may revoke it."""
    user = house.users[team, role]
    with house.client(Role.ADMIN, team) as admin:
        answer = admin.patch(f"/users/{user.id}", json={"openid": who})
    assert answer.status_code == 200, answer.text
    house.tokens[team, role] = house.token_of(user, tuple(Scope))
    return user


def me(browser):
    """Who the browser's session is of; None: nobody."""
    answer = browser.client.get("/api/v1/session")
    return answer.json() if answer.status_code == 200 else None


def sessions(house):
    with house.services.database() as tx:
        return {session.id for session in tx.sessions.page(100_000)}


def log(house, team=LOCAL_TEAM):
    """The lines of the audit log, newest first."""
    with house.services.database.of_team(team)() as tx:
        return tx.trail.page(100)


def refused(house, browser, answer, words, status=401):
    """It is a page that says why, where one can sign in otherwise, and nobody is signed in."""
    root = told(answer, status)
    (alert,) = [element for element in root.all() if element.get("role") == "alert"]
    assert words in alert.text
    assert [field for field in root.all("input") if field.get("name") == "password"]
    assert browser.session is None
    assert me(browser) is None
