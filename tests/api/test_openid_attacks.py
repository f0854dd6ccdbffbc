"""Every way to cheat on a sign-in through an OpenID Connect provider, and a provider that does not keep its word."""

import socket
from datetime import timedelta

import openid_house as forged
import pytest
from api_house import PASSWORD
from fastapi.responses import JSONResponse
from openid_house import (
    CALLBACK,
    CLIENT,
    EMAIL,
    Browser,
    changed,
    installation,
    invite,
    log,
    me,
    other_provider,
    refused,
    renewed,
    sessions,
)
from pages_house import parsed, told

from auditor.api.server import PROOFS_PER_MINUTE
from auditor.api.web.journey import LIFE, begun, opened
from auditor.contracts.people import Role
from auditor.service.people import digest_of_secret
from auditor.service.records import LOCAL_TEAM
from auditor.testing.ports import SetClock


@pytest.fixture(scope="module")
def installed_house(tmp_path_factory, running):
    with installation(tmp_path_factory.mktemp("home"), running) as house:
        yield house


@pytest.fixture
def house(installed_house):
    return renewed(installed_house)


def test_the_session_is_new_whatever_the_browser_brought(house, provider, browser):
    invite(house, {"subject": "s-1"})
    path, back = browser.back()
    browser.client.cookies.set("auditor_session", "chosen-by-somebody-else")
    answer = browser.client.get(path, params=back)
    (cookie,) = [line for line in answer.headers.get_list("set-cookie") if line.startswith("auditor_session=")]
    fresh = cookie.partition("=")[2].partition(";")[0]
    assert fresh != "chosen-by-somebody-else"
    assert {"httponly", "samesite=lax"} <= set(cookie.lower().split("; "))
    with house.services.database() as tx:
        assert tx.sessions.find(digest=digest_of_secret(fresh)) is not None
        assert tx.sessions.find(digest=digest_of_secret("chosen-by-somebody-else")) is None


def test_the_journey_is_kept_from_scripts_and_plain_connections(house, provider, browser):
    (cookie,) = [line for line in browser.begin().headers.get_list("set-cookie") if line.startswith("auditor_openid=")]
    parts = set(cookie.lower().split("; ")[1:])
    assert {"httponly", "samesite=lax", "path=/sign-in/openid", "max-age=600"} <= parts
    browser.client.headers["Host"] = "audits.example"
    (cookie,) = [line for line in browser.begin().headers.get_list("set-cookie") if line.startswith("auditor_openid=")]
    assert "secure" in cookie.lower().split("; ")


def aged(**seconds):
    """Times of the token, from now."""

    def forge(provider, claims):
        return provider.sign(claims | {name: claims["iat"] + by for name, by in seconds.items()})

    return forge


ATTACKS = {
    "wrong nonce": (changed(nonce="0" * 64), "nonce"),
    "no nonce": (changed(nonce=None), "nonce"),
    "wrong audience": (changed(aud="another"), "aud"),
    "one audience of several": (changed(aud=[CLIENT, "another"]), "azp"),
    "meant for another": (changed(azp="another"), "azp"),
    "no audience": (changed(aud=None), "aud"),
    "wrong issuer": (changed(iss="https://evil.example"), "iss"),
    "no issuer": (changed(iss=None), "iss"),
    "expired": (aged(exp=-61, iat=-400), "exp"),
    "never expires": (changed(exp=None), "exp"),
    "expires in words": (changed(exp="tomorrow"), "exp"),
    "from the future": (aged(iat=3600), "in the future"),
    "not yet": (aged(nbf=3600), "not yet valid"),
    "another access token": (changed(at_hash="AAAAAAAAAAAAAAAAAAAAAA"), "at_hash"),
    "nobody": (changed(sub=None), "sub"),
    "nobody by name": (changed(sub=""), "told apart"),
    "a number": (changed(sub=7), "sub"),
    "a NUL": (changed(sub="s\0"), "told apart"),
    "alg none": (forged.unsigned, "trusted"),
    "HS256 with the public key": (forged.with_public_key_as_secret, "trusted"),
    "HS256 with a published secret": (forged.with_published_secret, "trusted"),
    "a key that is not published": (forged.with_foreign_key, "trusted"),
    "another key of the same name": (forged.with_foreign_key_of_same_name, "trusted"),
    "a key of its own": (forged.with_its_own_key, "trusted"),
    "a key for encryption": (forged.with_key_for_encryption, "trusted"),
    "no token at all": (lambda *_: "x", "trusted"),
    "a name with a lone surrogate": (lambda provider, claims: _with_kid(provider, claims, "\ud800\0"), "trusted"),
}


def _with_kid(provider, claims, kid):
    return provider.sign(claims, header={"kid": kid})


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_token_that_is_not_for_this_sign_in_is_refused(house, provider, browser, attack):
    invite(house, {"email": EMAIL})
    provider.forge, words = ATTACKS[attack]
    before = sessions(house)
    refused(house, browser, browser.sign_in(), words)
    assert sessions(house) == before
    line = log(house)[0]
    assert (line.what, line.who, line.detail["by"]) == ("session.refused", "(nobody)", "openid")
    assert words in line.detail["reason"]
    provider.forge = None
    assert browser.sign_in().status_code == 303


@pytest.mark.parametrize(
    "forge",
    [
        aged(exp=-30, iat=-330),
        changed(aud=[CLIENT]),
        changed(aud=[CLIENT, "more"], azp=CLIENT),
        forged.with_elliptic_key,
    ],
    ids=["a clock that differs a little", "a list", "several audiences, and it says for whom", "ES256"],
)
def test_what_providers_may_do_is_taken(house, provider, browser, forge):
    invite(house, {"email": EMAIL})
    provider.forge = forge
    assert browser.sign_in().status_code == 303


def test_a_key_that_was_changed_is_fetched_anew(house, provider, browser):
    invite(house, {"email": EMAIL})
    assert browser.sign_in().status_code == 303
    with Browser(house.url) as later:
        provider.forge = forged.with_elliptic_key
        provider.keys = []
        assert later.sign_in().status_code == 303


def test_a_provider_that_wants_the_secret_in_the_form_gets_it_there(house, provider, browser):
    invite(house, {"email": EMAIL})
    provider.auth_methods = ["client_secret_post"]
    assert browser.sign_in().status_code == 303
    assert provider.used_auth == "post"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"state": "0" * 64}, "not to this sign-in"),
        ({"state": None}, "not to this sign-in"),
        ({"state": "\u00e9"}, "not to this sign-in"),
        ({"iss": "https://evil.example"}, "another provider"),
        ({"code": None}, "no code"),
        ({"code": "made-up"}, "did not take the code"),
        ({"error": "access_denied\0<script>"}, "the provider refused: access_denied<script>"),
    ],
    ids=str,
)
def test_an_answer_that_was_tampered_with_is_refused(house, provider, browser, change, words):
    invite(house, {"email": EMAIL})
    before = sessions(house)
    path, back = browser.back()
    provider.asked.clear()
    answer = browser.client.get(path, params={k: v for k, v in (back | change).items() if v is not None})
    refused(house, browser, answer, words)
    assert "<script>" not in answer.text.replace("&lt;script&gt;", "")
    assert sessions(house) == before
    assert "/token" not in provider.asked or change == {"code": "made-up"}
    assert words in log(house)[0].detail["reason"]


def test_a_code_is_good_once(house, provider, browser):
    """Also with the cookie of the journey put back, as from a copy of the browser's profile."""
    invite(house, {"email": EMAIL})
    path, back = browser.back()
    journey = browser.client.cookies["auditor_openid"]
    assert browser.client.get(path, params=back).status_code == 303
    assert "auditor_openid" not in browser.client.cookies
    before = sessions(house)
    with Browser(house.url) as thief:
        refused(house, thief, thief.client.get(path, params=back), "not begun in this browser")
        thief.client.cookies.set("auditor_openid", journey, path="/sign-in/openid")
        refused(house, thief, thief.client.get(path, params=back), "did not take the code")
    assert sessions(house) == before


def test_an_answer_for_another_browser_is_refused(house, provider, browser):
    """Somebody sends a victim the end of their own sign-in; the victim has one of their own under way, or none."""
    invite(house, {"email": EMAIL})
    before = sessions(house)
    with Browser(house.url) as victim:
        path, back = browser.back()
        refused(house, victim, victim.client.get(path, params=back), "not begun in this browser")
        victim.begin()
        refused(house, victim, victim.client.get(path, params=back), "not to this sign-in")
    assert sessions(house) == before


def test_a_stolen_code_is_worth_nothing_without_the_browser(house, provider, browser):
    """The thief puts the code into a sign-in of their own: the verifier is another."""
    invite(house, {"email": EMAIL})
    _, stolen = browser.back()
    with Browser(house.url) as thief:
        path, own = thief.back()
        refused(house, thief, thief.client.get(path, params=own | {"code": stolen["code"]}), "did not take the code")


@pytest.mark.parametrize("cookie", ["", "x", "x.y", "W10=.00", "\u00e9."], ids=str)
def test_a_journey_that_was_made_up_is_none(cookie):
    assert opened(cookie, b"key", SetClock().now()) is None


def test_a_journey_is_signed_and_ends(house):
    clock = SetClock()
    journey = begun("local", "/x", clock.now())
    sealed = journey.sealed(b"key")
    assert opened(sealed, b"key", clock.now()) == journey
    assert opened(sealed, b"another", clock.now()) is None
    assert opened("A" + sealed[1:], b"key", clock.now()) is None
    assert opened(sealed, b"key", clock.now() + LIFE) is None
    assert opened(sealed, b"key", clock.now() + LIFE - timedelta(seconds=1)) == journey
    assert len({journey.state, journey.nonce, journey.verifier, journey.secret}) == 4
    assert begun("local", "/" + "x" * 5000, clock.now()).target == "/"


@pytest.mark.parametrize(
    "target", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)"]
)
def test_signing_in_leads_nowhere_else(house, provider, browser, target):
    invite(house, {"email": EMAIL})
    assert browser.sign_in(target=target).headers["location"] == "/"
    with Browser(house.url) as crafted:
        page = parsed(crafted.client.get("/sign-in").text)
        fields = {field.get("name"): field.get("value", "") for field in page.all("input")}
        answer = crafted.client.post("/sign-in/openid", data=fields | {"next": target})
        journey = opened(crafted.client.cookies["auditor_openid"], house.app.state.server.key, _now(house))
        assert (answer.status_code, journey.target) == (200, "/")


def _now(house):
    return house.services.clock.now()


def test_whoever_is_signed_in_stays_so_when_another_sign_in_fails(house, provider, browser):
    invite(house, {"email": EMAIL})
    browser.sign_in()
    kept = browser.session
    root = told(browser.client.get(CALLBACK, params={"code": "x", "state": "y"}), 401)
    fields = {field.get("name"): field.get("value", "") for field in root.all("input")}
    assert browser.session == kept
    answer = browser.client.post("/sign-in", data=fields | {"name": "nobody", "password": "x"})
    assert "the team, the name or the password is wrong" in told(answer, 401).text  # its form works


DOWN = {
    "its description is about another": {"describe": {"issuer": "https://evil.example"}},
    "it has no keys": {"describe": {"jwks_uri": None}},
    "it leads to an open line": {"describe": {"token_endpoint": "http://evil.example/token"}},
    "it leads to a script": {"describe": {"authorization_endpoint": "javascript:alert(1)"}},
    "it leads to no address": {"describe": {"jwks_uri": "https://[x"}},
}


@pytest.mark.parametrize("what", DOWN)
def test_a_description_that_cannot_be_used_starts_nothing(house, provider, browser, what):
    for name, value in DOWN[what].items():
        setattr(provider, name, value)
    refused(house, browser, browser.begin(), "Acme cannot be used at the moment", 503)
    assert "auditor_openid" not in browser.client.cookies


@pytest.mark.parametrize(
    "answer",
    [
        JSONResponse({"error": "server_error"}, 500),
        JSONResponse({"error": "invalid_client"}, 401),
        JSONResponse([1]),
        JSONResponse({"access_token": "x"}),
        JSONResponse({"id_token": "x" * (2 << 20)}),
    ],
    ids=["an error", "our secret is wrong", "no object", "no token", "too much"],
)
def test_a_provider_that_fails_in_the_middle_leaves_nobody_signed_in(house, provider, browser, answer):
    invite(house, {"email": EMAIL})
    provider.token_answer = answer
    before = sessions(house)
    shown = browser.sign_in()
    refused(house, browser, shown, "Acme cannot be used at the moment", 503)
    assert "Traceback" not in shown.text
    assert sessions(house) == before


class _Gone:
    """A port at which connections are taken, and nobody answers, or refused at once."""

    def __init__(self, silent):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.issuer = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        if not silent:
            self.socket.close()


@pytest.mark.parametrize("silent", [True, False], ids=["it does not answer", "it is down"])
def test_without_the_provider_passwords_still_work(house, browser, silent):
    gone = _Gone(silent)
    with other_provider(house, issuer=gone.issuer, timeout_s=0.2):
        refused(house, browser, browser.begin(), "Acme cannot be used at the moment", 503)
    page = parsed(browser.client.get("/sign-in").text)
    fields = {field.get("name"): field.get("value", "") for field in page.all("input")}
    name = house.users[LOCAL_TEAM, Role.ADMIN].name
    assert browser.client.post("/sign-in", data=fields | {"name": name, "password": PASSWORD}).status_code == 303
    assert me(browser)["user"]["name"] == name
    gone.socket.close()


def test_guessing_is_slowed_down_on_the_way_back_too(house, provider):
    with Browser(house.url) as browser:
        answers = [browser.client.get(CALLBACK, params={"code": "x"}) for _ in range(PROOFS_PER_MINUTE + 1)]
    assert [answer.status_code for answer in answers[:3]] == [401] * 3
    assert answers[-1].status_code == 429


def test_the_way_in_is_a_form_of_this_browser(house, provider, browser):
    """No other site can begin a sign-in, and no page of ours lets a form lead elsewhere."""
    browser.client.get("/sign-in")
    assert browser.client.post("/sign-in/openid", data={"team": "local"}).status_code == 403
    answer = browser.begin()
    assert "form-action 'self'" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "private, no-store"
    assert len(parsed(answer.text).all("form")) == 0
