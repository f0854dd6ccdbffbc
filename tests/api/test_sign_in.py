"""The first admin, passwords, sessions and what protects them, on a server that nobody is known to yet."""

import re
from dataclasses import replace
from datetime import timedelta

import httpx
import pytest
from api_house import HANDLERS, PASSWORD, good, problem, serving

from auditor.api.app import build_app
from auditor.api.server import PROOFS_PER_MINUTE
from auditor.api.serving import tell_bootstrap, uvicorn_options
from auditor.bootstrap import build_services
from auditor.client.credentials import check_url
from auditor.service.people import LOCK_AFTER, LOCKED_FOR, People
from auditor.settings import Settings
from auditor.testing.ports import SetClock

NEW = "another long password"


class Fresh:
    """A server without people, whose clock stands still."""

    def __init__(self, url, app, services, clock, home):
        self.url, self.app, self.services, self.clock, self.home = url, app, services, clock, home

    def browser(self):
        """Keeps cookies."""
        return httpx.Client(base_url=f"{self.url}/api/v1", timeout=60)

    def people(self):
        return People(database=self.services.database, clock=self.services.clock)


@pytest.fixture
def fresh(tmp_path):
    settings = Settings(home=tmp_path, device="cpu")
    clock = SetClock()
    services = replace(build_services(settings, handlers=HANDLERS), clock=clock)
    app = build_app(services, settings)
    with serving(app) as url:
        yield Fresh(url, app, services, clock, tmp_path)
    services.close()


@pytest.fixture
def ann(fresh):
    """A browser in which the first admin has signed in, with the token for changes."""
    token = fresh.people().make_bootstrap_token()
    with fresh.browser() as browser:
        good(browser.post("/bootstrap", json={"token": token, "name": "ann", "password": PASSWORD}))
        me = good(browser.post("/session", json={"name": "ann", "password": PASSWORD}))
        browser.headers["X-CSRF-Token"] = me["csrf_token"]
        yield browser


def test_the_bootstrap_token_makes_one_admin_once(fresh):
    first, second = fresh.people().make_bootstrap_token(), fresh.people().make_bootstrap_token()
    body = {"token": first, "name": "ann", "password": PASSWORD}
    with fresh.browser() as browser:
        problem(browser.get("/users", headers={"Authorization": f"Bearer {first}"}), 401, "not_signed_in")
        assert good(browser.post("/bootstrap", json=body))["role"] == "admin"
        for token in (first, second, "aud_nothing"):
            problem(browser.post("/bootstrap", json=body | {"token": token, "name": "eve"}), 401, "not_signed_in")


def test_bootstrap_tokens_used_or_not_keep_no_admin_from_the_tokens(fresh, ann):
    fresh.people().make_bootstrap_token()
    made = good(ann.post("/tokens", json={"name": "ci"}))["token"]
    assert good(ann.get("/tokens"))["items"] == [made]
    page = ann.get(f"{fresh.url}/account")
    assert page.status_code == 200
    assert "bootstrap" not in page.text


@pytest.mark.parametrize(
    ("host", "reached"),
    [("0.0.0.0", "127.0.0.1"), ("::", "127.0.0.1"), ("localhost", "localhost")],  # noqa: S104
)
def test_the_printed_command_can_be_typed(capsys, host, reached):
    tell_bootstrap("aud_token", host, 8000)
    (url,) = re.findall(r"auditor login (\S+) --bootstrap", capsys.readouterr().err)
    assert url == f"http://{reached}:8000"
    check_url(url)


def test_a_bootstrap_token_is_good_for_an_hour(fresh):
    body = {"token": fresh.people().make_bootstrap_token(), "name": "ann", "password": PASSWORD}
    fresh.clock.sleep(3600)
    with fresh.browser() as browser:
        problem(browser.post("/bootstrap", json=body), 401, "not_signed_in")
    assert fresh.people().is_empty()


def test_short_passwords_are_refused(fresh):
    with fresh.browser() as browser:
        body = {"token": fresh.people().make_bootstrap_token(), "name": "ann", "password": "short"}
        problem(browser.post("/bootstrap", json=body), 422, "invalid_input")


def test_the_cookie_is_kept_from_scripts_and_other_sites(fresh, ann):
    with fresh.browser() as browser:
        local = browser.post("/session", json={"name": "ann", "password": PASSWORD})
        cookie = local.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=lax" in cookie
        assert "secure" not in cookie
        away = browser.post("/session", json={"name": "ann", "password": PASSWORD}, headers={"Host": "audit.example"})
        assert "; secure" in away.headers["set-cookie"].lower()


@pytest.mark.parametrize(
    ("headers", "public", "secure"),
    [
        ({"Host": "audit.example"}, None, True),
        ({"Host": "localhost:8000", "X-Forwarded-Proto": "https"}, None, True),
        ({"Host": "localhost:8000", "X-Forwarded-Proto": "HTTPS, http"}, None, True),
        ({"Host": "localhost:8000"}, "https://audit.example", True),
        ({"Host": "[::1]:8000"}, None, False),
        ({"Host": "localhost:8000", "X-Forwarded-Proto": "http"}, "http://localhost:8000", False),
    ],
)
def test_only_plain_http_on_this_machine_carries_cookies(fresh, ann, headers, public, secure):
    server = fresh.app.state.server
    fresh.app.state.server = replace(server, settings=server.settings.model_copy(update={"public_url": public}))
    with fresh.browser() as browser:
        form = browser.get(f"{fresh.url}/sign-in", headers=headers)
        session = browser.post("/session", json={"name": "ann", "password": PASSWORD}, headers=headers)
    for answer, name in ((session, "auditor_session"), (form, "auditor_form")):
        (cookie,) = answer.headers.get_list("set-cookie")
        assert cookie.startswith(f"{name}=")
        assert ("secure" in cookie.lower().split("; ")) is secure


def test_no_secret_is_in_the_database(fresh, ann):
    secrets = [ann.cookies["auditor_session"], good(ann.post("/tokens", json={"name": "ci"}))["secret"], PASSWORD]
    data = b"".join(path.read_bytes() for path in fresh.home.glob("auditor.db*"))
    assert b"argon2id" in data
    assert not [secret for secret in secrets if secret.encode() in data]


def test_a_change_by_cookie_needs_the_token_of_the_session(fresh, ann):
    right = ann.headers.pop("X-CSRF-Token")
    assert good(ann.get("/session"))["csrf_token"] == right
    for wrong in ({}, {"X-CSRF-Token": ""}, {"X-CSRF-Token": right[:-1] + "x"}):
        problem(ann.post("/tokens", json={"name": "ci"}, headers=wrong), 403, "not_allowed")
        problem(ann.delete("/session", headers=wrong), 403, "not_allowed")
    good(ann.post("/tokens", json={"name": "ci"}, headers={"X-CSRF-Token": right}))


def test_a_token_needs_no_csrf_token_and_wins_over_a_cookie(fresh, ann):
    made = good(ann.post("/tokens", json={"name": "ci", "scopes": ["read"]}))
    ann.headers.pop("X-CSRF-Token")
    ann.headers["Authorization"] = f"Bearer {made['secret']}"
    me = good(ann.get("/session"))
    assert (me["scopes"], me["csrf_token"]) == (["read"], None)
    for scopes in (["read"], ["admin"]):  # neither for longer than itself, nor for more
        problem(ann.post("/tokens", json={"name": "more", "scopes": scopes}), 403, "not_allowed")
    ann.headers["Authorization"] = "Bearer aud_wrong"
    problem(ann.get("/session"), 401, "not_signed_in")


@pytest.mark.parametrize("how", ["nobody", "wrong password", "no password", "other team", "disabled", "locked"])
def test_whatever_is_wrong_the_answer_is_the_same(fresh, ann, how):
    good(ann.post("/users", json={"name": "bob", "role": "submitter", "password": NEW}))
    bob = next(user["id"] for user in good(ann.get("/users"))["items"] if user["name"] == "bob")
    body = {"name": "bob", "password": NEW}
    if how == "nobody":
        body["name"] = "carol"
    elif how == "wrong password":
        body["password"] = "wrong"  # noqa: S105
    elif how == "no password":
        good(ann.post("/users", json={"name": "dan", "role": "submitter"}))
        body["name"] = "dan"
    elif how == "other team":
        body["team"] = "others"
    elif how == "disabled":
        good(ann.patch(f"/users/{bob}", json={"disabled": True}))
    with fresh.browser() as browser:
        if how == "locked":
            for _ in range(LOCK_AFTER):
                browser.post("/session", json=body | {"password": "wrong"})
        answer = browser.post("/session", json=body)
        problem(answer, 401, "not_signed_in")
        reference = browser.post("/session", json={"name": "nobody-at-all", "password": "x"})
        assert answer.content == reference.content
        assert "set-cookie" not in answer.headers
        if how == "locked":
            fresh.clock.sleep(LOCKED_FOR.total_seconds())
            good(browser.post("/session", json=body))


def test_a_session_ends_with_its_time_with_signing_out_and_with_the_password(fresh, ann):
    with fresh.browser() as browser:
        me = good(browser.post("/session", json={"name": "ann", "password": PASSWORD}))
        browser.headers["X-CSRF-Token"] = me["csrf_token"]
        stolen = browser.cookies["auditor_session"]
        good(browser.delete("/session"))
        browser.cookies.set("auditor_session", stolen)
        problem(browser.get("/session"), 401, "not_signed_in")
    with fresh.browser() as other:
        good(other.post("/session", json={"name": "ann", "password": PASSWORD}))
        good(ann.put("/session/password", json={"password": NEW, "current": PASSWORD}))
        problem(other.get("/session"), 401, "not_signed_in")
        me = good(other.post("/session", json={"name": "ann", "password": NEW}))
        fresh.clock.sleep(timedelta(hours=13).total_seconds())
        problem(other.get("/session"), 401, "not_signed_in")


def test_a_password_is_changed_by_whoever_knows_the_one_before(fresh, ann):
    with fresh.browser() as script:
        script.headers["Authorization"] = (
            f"Bearer {good(ann.post('/tokens', json={'name': 'ci', 'scopes': ['admin']}))['secret']}"
        )
        for asks in (ann, script):
            for current in ({}, {"current": None}, {"current": NEW}):
                problem(asks.put("/session/password", json={"password": NEW} | current), 403, "not_allowed")
            fresh.clock.sleep(LOCKED_FOR.total_seconds())
        for _ in range(LOCK_AFTER):
            script.put("/session/password", json={"password": NEW, "current": "guessed"})
        problem(script.put("/session/password", json={"password": NEW, "current": PASSWORD}), 403, "not_allowed")
        fresh.clock.sleep(LOCKED_FOR.total_seconds())
        good(script.put("/session/password", json={"password": NEW, "current": PASSWORD}))


def test_a_first_password_is_set_in_a_session_and_not_with_a_token(fresh, ann):
    (me,) = good(ann.get("/users"))["items"]
    token = good(ann.post("/tokens", json={"name": "ci", "scopes": ["admin"]}))["secret"]
    with fresh.services.database() as tx:
        tx.users.change(me["id"], password_hash=None)
    with fresh.browser() as script:
        script.headers["Authorization"] = f"Bearer {token}"
        problem(script.put("/session/password", json={"password": NEW}), 403, "not_allowed")
    good(ann.put("/session/password", json={"password": NEW}))


def test_a_password_that_an_admin_sets_revokes_the_tokens_that_were_made_with_the_old_one(fresh, ann):
    bob = good(ann.post("/users", json={"name": "bob", "role": "submitter", "password": PASSWORD}))
    with fresh.browser() as browser:
        me = good(browser.post("/session", json={"name": "bob", "password": PASSWORD}))
        made = good(browser.post("/tokens", json={"name": "ci"}, headers={"X-CSRF-Token": me["csrf_token"]}))
    kept = good(ann.post("/tokens", json={"name": "own"}))
    with fresh.browser() as script:
        script.headers["Authorization"] = f"Bearer {made['secret']}"
        good(ann.patch(f"/users/{bob['id']}", json={"role": "reviewer"}))
        good(script.get("/session"))
        good(ann.patch(f"/users/{bob['id']}", json={"password": NEW}))
        problem(script.get("/session"), 401, "not_signed_in")
        script.headers["Authorization"] = f"Bearer {kept['secret']}"
        good(script.get("/session"))
    told = [
        (line["subject"], line["who"])
        for line in good(ann.get("/audit-log"))["items"]
        if line["what"] == "token.revoke"
    ]
    assert told == [(made["token"]["id"], "ann")]


def test_a_person_who_is_enabled_again_has_no_token_of_before(fresh, ann):
    bob = good(ann.post("/users", json={"name": "bob", "role": "submitter", "password": PASSWORD}))
    with fresh.browser() as browser:
        me = good(browser.post("/session", json={"name": "bob", "password": PASSWORD}))
        made = good(browser.post("/tokens", json={"name": "ci"}, headers={"X-CSRF-Token": me["csrf_token"]}))
        for disabled in (True, False):
            good(ann.patch(f"/users/{bob['id']}", json={"disabled": disabled}))
            problem(browser.get("/session"), 401, "not_signed_in")
    with fresh.browser() as script:
        script.headers["Authorization"] = f"Bearer {made['secret']}"
        problem(script.get("/session"), 401, "not_signed_in")


def test_a_team_keeps_an_admin(fresh, ann):
    (me,) = good(ann.get("/users"))["items"]
    for change in ({"role": "reviewer"}, {"disabled": True}):
        problem(ann.patch(f"/users/{me['id']}", json=change), 409, "conflict")
    assert good(ann.get("/users"))["items"] == [me]


def test_guessing_is_slowed_down(fresh, monkeypatch):
    with fresh.browser() as browser:
        answers = [browser.get("/session", headers={"Authorization": "Bearer aud_guess"}) for _ in range(25)]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert 0 < len(refused) < 10
    problem(refused[0], 429, "too_many_requests")
    assert int(refused[0].headers["retry-after"]) >= 1


def test_an_admin_sets_passwords_of_others_alone(fresh, ann):
    me = good(ann.get("/session"))["user"]["id"]
    problem(ann.patch(f"/users/{me}", json={"password": NEW}), 403, "not_allowed")
    assert f'action="/admin/users/{me}"' in (page := ann.get(f"{fresh.url}/admin").text)
    assert "New password of ann" not in page


def test_wrong_tokens_keep_nobody_at_their_address_from_signing_in(fresh, ann):
    with fresh.browser() as browser:
        statuses = {
            browser.get("/jobs", headers={"Authorization": "Bearer aud_old"}).status_code
            for _ in range(2 * PROOFS_PER_MINUTE)
        }
        assert statuses == {401, 429}
        good(browser.post("/session", json={"name": "ann", "password": PASSWORD}))


@pytest.mark.parametrize("token", ["valid", "aud_wrong"])
def test_a_token_beside_it_gives_nobody_further_guesses_at_a_password(fresh, ann, token):
    bearer = good(ann.post("/tokens", json={"name": "ci"}))["secret"] if token == "valid" else token  # noqa: S105
    with fresh.browser() as browser:
        guesses = [
            browser.post(
                "/session",
                json={"name": "nobody", "password": NEW},
                headers={} if number % 2 else {"Authorization": f"Bearer {bearer}"},
            ).status_code
            for number in range(PROOFS_PER_MINUTE + 6)
        ]
    assert guesses.count(401) < PROOFS_PER_MINUTE + 3
    assert guesses[-1] == 429


@pytest.mark.parametrize(("trusted", "refused"), [("", True), ("127.0.0.1", False), ("10.0.0.0/8", True)])
def test_guessing_is_counted_by_an_address_that_only_a_trusted_proxy_may_name(fresh, trusted, refused):
    options = uvicorn_options(Settings(trusted_proxies=trusted)) | {"log_level": "warning"}
    with (
        serving(fresh.app, lifespan="off", **options) as url,
        httpx.Client(base_url=f"{url}/api/v1", timeout=60) as browser,
    ):
        statuses = [
            browser.post(
                "/bootstrap",
                json={"token": "aud_wrong", "name": "eve", "password": NEW},
                headers={"X-Forwarded-For": f"192.0.2.{number}"},
            ).status_code
            for number in range(PROOFS_PER_MINUTE + 5)
        ]
    assert (429 in statuses) is refused


def test_the_log_of_requests_has_fields_and_holds_no_query(fresh, caplog):
    with caplog.at_level("INFO"), serving(fresh.app, lifespan="off", **uvicorn_options(Settings())) as url:
        httpx.get(f"{url}/api/v1/reports/abcd/pictures/0-original-0?expires=1&signature=secret")
    (line,) = [record for record in caplog.records if record.name == "uvicorn.access"]
    assert (line.getMessage(), line.method, line.status) == ("request", "GET", 401)
    assert line.path == "/api/v1/reports/abcd/pictures/0-original-0"
    assert "secret" not in repr(vars(line))


def test_a_new_team_is_alone_with_its_admin(fresh, ann):
    good(ann.post("/teams", json={"name": "faces", "admin": "ann", "password": NEW}))
    with fresh.browser() as browser:
        me = good(browser.post("/session", json={"team": "faces", "name": "ann", "password": NEW}))
        assert me["team"]["name"] == "faces"
        assert [user["id"] for user in good(browser.get("/users"))["items"]] == [me["user"]["id"]]
