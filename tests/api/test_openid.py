"""Whom an OpenID Connect provider vouches for, and who they are here: the whole way, on both databases."""

import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from api_house import OTHERS, good, problem
from openid_house import (
    EMAIL,
    Browser,
    installation,
    invite,
    log,
    me,
    other_provider,
    refused,
    renewed,
    sessions,
)
from pages_house import Visitor, parsed, told

from auditor.contracts.people import Role, Scope
from auditor.errors import NotSignedIn
from auditor.service.openid import Vouched
from auditor.service.records import LOCAL_TEAM


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgres", marks=pytest.mark.integration)])
def installed_house(request, tmp_path_factory, running):
    more = {}
    if request.param == "postgres":
        more["database_url"] = request.getfixturevalue("shared_postgres_url")
    with installation(tmp_path_factory.mktemp("home"), running, **more) as house:
        yield house


@pytest.fixture
def house(installed_house):
    return renewed(installed_house)


def test_somebody_who_is_invited_signs_in_and_is_bound(house, provider, browser):
    user = invite(house, {"email": "Ann@Example.com"})
    answer = browser.sign_in(target="/models?x=1")
    assert (answer.status_code, answer.headers["location"]) == (303, "/models?x=1")
    assert provider.used_auth == "basic"
    signed_in = me(browser)
    assert signed_in["user"]["openid"] == {"email": EMAIL, "issuer": provider.issuer, "subject": "s-1"}
    assert (signed_in["user"]["id"], signed_in["team"]["name"]) == (user.id, "local")
    assert signed_in["csrf_token"]
    newest = {line.what: line for line in reversed(log(house))}
    assert (newest["user.bind"].who, newest["user.bind"].detail["sub"]) == (user.name, "s-1")
    assert (newest["session.start"].who, newest["session.start"].detail) == (user.name, {"by": "openid"})


def test_the_session_is_like_any_other(house, provider, browser):
    invite(house, {"subject": "s-1"})
    browser.sign_in()
    assert browser.client.post("/sign-out", data={"csrf": "wrong"}).status_code == 403
    stolen = browser.session
    csrf = me(browser)["csrf_token"]
    assert browser.client.post("/sign-out", data={"csrf": csrf}).status_code == 303
    browser.client.cookies.set("auditor_session", stolen)
    assert me(browser) is None


def test_a_later_address_takes_nobody_over(house, provider, browser):
    """After the first sign-in the subject alone counts: in both directions."""
    invite(house, {"email": EMAIL})
    browser.sign_in()
    before = sessions(house)
    provider.person = {"sub": "s-2", "email": EMAIL, "email_verified": True}
    with Browser(house.url) as other:
        refused(house, other, other.sign_in(), "nobody in the team 'local' may sign in with the e-mail")
    assert sessions(house) == before
    provider.person = {"sub": "s-1", "email": "new@example.com", "email_verified": True}
    with Browser(house.url) as again:
        assert again.sign_in().status_code == 303
        assert me(again)["user"]["openid"]["email"] == EMAIL


def test_of_many_who_come_with_one_address_at_once_one_is_bound(house, provider):
    user = invite(house, {"email": EMAIL})
    sign_in, together = house.app.state.server.openid_sign_in, threading.Barrier(6)

    def come(number):
        together.wait()
        try:
            return sign_in.sign_in("local", Vouched(provider.issuer, f"s-{number}", EMAIL))[1].user
        except NotSignedIn:
            return None

    with ThreadPoolExecutor(6) as pool:
        (bound,) = [found for found in pool.map(come, range(6)) if found is not None]
    with house.services.database() as tx:
        assert tx.users.get(user.id) == bound


def test_somebody_with_the_address_of_another_is_not_them(house, provider, browser):
    """A person here chooses at the provider the address by which someone else is invited."""
    eve = invite(house, {"subject": "s-eve"}, Role.SUBMITTER)
    invite(house, {"email": EMAIL}, Role.ADMIN)
    provider.person = {"sub": "s-eve", "email": EMAIL, "email_verified": True}
    assert browser.sign_in().status_code == 303
    assert me(browser)["user"]["id"] == eve.id


@pytest.mark.parametrize(
    "person",
    [
        {"email": EMAIL},
        {"email": EMAIL, "email_verified": False},
        {"email": EMAIL, "email_verified": "true"},
        {"email": EMAIL, "email_verified": 1},
        {"email": "\u212aate@example.com", "email_verified": True},
        {"email": [EMAIL], "email_verified": True},
        {"email": EMAIL + "\0", "email_verified": True},
        {"email": None, "email_verified": True},
        {},
    ],
    ids=str,
)
def test_an_address_that_is_not_vouched_for_is_nobodys(house, provider, browser, person):
    invite(house, {"email": EMAIL}, Role.ADMIN)
    invite(house, {"email": "kate@example.com"}, Role.REVIEWER)
    before, provider.person = sessions(house), {"sub": "s-9"} | person
    refused(house, browser, browser.sign_in(), "the subject 's-9' (it vouches for no e-mail of yours)")
    assert sessions(house) == before


def test_an_unknown_person_is_refused_and_written_down(house, provider, browser):
    before = sessions(house)
    refused(house, browser, browser.sign_in(), f"may sign in with the e-mail '{EMAIL}' or the subject 's-1'")
    line = log(house)[0]
    assert (line.what, line.who, line.subject) == ("session.refused", "(nobody)", EMAIL)
    assert line.detail == {"by": "openid", "reason": "unknown", "issuer": provider.issuer, "sub": "s-1"}
    assert sessions(house) == before
    with house.services.database() as tx:
        assert tx.users.find(email=EMAIL) is None


@pytest.mark.parametrize("how", ["disabled", "removed", "taken back"])
def test_whoever_has_left_is_refused(house, provider, browser, how):
    leaver = replace(house.users[LOCAL_TEAM, Role.REVIEWER], id=secrets.token_hex(16), name=f"l-{secrets.token_hex(4)}")
    with house.services.database() as tx:
        tx.users.add(replace(leaver, email=EMAIL))
    assert browser.sign_in().status_code == 303
    with house.client(Role.ADMIN) as admin:
        if how == "disabled":
            admin.patch(f"/users/{leaver.id}", json={"disabled": True})
        elif how == "taken back":
            assert admin.patch(f"/users/{leaver.id}", json={"openid": {}}).json()["openid"] is None
        else:
            with house.services.database() as tx:
                while session := tx.sessions.find(user_id=leaver.id):
                    tx.sessions.remove(session.id)
                assert tx.users.remove(leaver.id)
    assert me(browser) is None
    with Browser(house.url) as again:
        refused(house, again, again.sign_in(), "nobody in the team 'local' may sign in")
    assert log(house)[0].detail["reason"] == ("disabled" if how == "disabled" else "unknown")


def test_whoever_was_disabled_before_they_came_is_not_bound(house, provider, browser):
    user = invite(house, {"email": EMAIL}, Role.REVIEWER)
    with house.client(Role.ADMIN) as admin:
        admin.patch(f"/users/{user.id}", json={"disabled": True})
    refused(house, browser, browser.sign_in(), "nobody in the team 'local' may sign in")
    with house.services.database() as tx:
        assert tx.users.get(user.id).subject is None


def test_a_second_issuer_is_another_world(house, provider, browser):
    """Bound at one provider; the same subject at the next one, even with the same address, is somebody else."""
    user = house.users[LOCAL_TEAM, Role.ADMIN]
    with house.services.database() as tx:
        tx.users.change(user.id, email=EMAIL, issuer="https://former.example", subject="s-1")
    refused(house, browser, browser.sign_in(), "nobody in the team 'local' may sign in")


def test_teams_invite_for_themselves(house, provider, browser):
    """The same address in two teams is two people; which one, the person says."""
    invite(house, {"email": EMAIL}, Role.REVIEWER)
    theirs = invite(house, {"email": EMAIL}, Role.ADMIN, OTHERS)
    assert browser.sign_in(team="others").status_code == 303
    assert (me(browser)["user"]["id"], me(browser)["team"]["name"]) == (theirs.id, "others")
    with house.services.database() as tx:
        assert tx.users.get(house.users[LOCAL_TEAM, Role.REVIEWER].id).subject is None
    with Browser(house.url) as here:
        assert here.sign_in().status_code == 303
        assert me(here)["user"]["role"] == "reviewer"


def test_a_team_that_does_not_exist_is_answered_like_one_that_has_nobody_like_this(house, provider, browser):
    pages = [browser.sign_in(team=team).text.replace(team, "T") for team in ("others", "nowhere")]
    shown = [[element.text for element in parsed(page).all() if element.get("role") == "alert"] for page in pages]
    assert shown[0] == shown[1] != []
    assert log(house)[0].detail["team"] == "nowhere"
    assert log(house, OTHERS)[0].detail["reason"] == "unknown"


def test_where_subjects_alone_count_no_address_does(house, provider, browser):
    with other_provider(house, by_email=False):
        invite(house, {"email": EMAIL})
        refused(house, browser, browser.sign_in(), "nobody in the team 'local' may sign in with the subject 's-1'")
        invite(house, {"subject": "s-1"})
        with Browser(house.url) as again:
            assert again.sign_in().status_code == 303


def test_an_invitation_is_one_persons(house, provider):
    invite(house, {"email": EMAIL}, Role.ADMIN)
    other = house.users[LOCAL_TEAM, Role.REVIEWER]
    with house.client(Role.ADMIN) as admin:
        taken = problem(admin.patch(f"/users/{other.id}", json={"openid": {"email": EMAIL.upper()}}), 409, "conflict")
        assert house.users[LOCAL_TEAM, Role.ADMIN].name in taken["detail"]
        body = {"name": f"x-{secrets.token_hex(4)}", "openid": {"email": EMAIL}}
        problem(admin.post("/users", json=body), 409, "conflict")
        assert admin.post("/users", json=body | {"openid": {"subject": "s-77"}}).json()["openid"]["issuer"]
        problem(admin.patch(f"/users/{other.id}", json={"openid": {"subject": "s-77"}}), 409, "conflict")
        for wrong in ({"email": EMAIL, "subject": "s-1"}, {"email": "no address"}, {"mail": EMAIL}, {"subject": ""}):
            problem(admin.patch(f"/users/{other.id}", json={"openid": wrong}), 422, "invalid_input")
    told_of = [line.detail.get("openid") for line in log(house)]
    assert "s-77" in told_of


def test_another_way_in_ends_the_sessions_of_the_old_one(house, provider, browser):
    invite(house, {"email": EMAIL})
    browser.sign_in()
    invite(house, {"email": "successor@example.com"})
    assert me(browser) is None


@pytest.mark.parametrize("other", [{"email": "successor@example.com"}, {"subject": "s-2"}, {}])
def test_another_way_in_revokes_the_tokens_of_whoever_came_by_the_old_one(house, provider, browser, other):
    invite(house, {"email": EMAIL}, Role.REVIEWER)
    browser.sign_in()
    csrf = {"X-CSRF-Token": me(browser)["csrf_token"]}
    made = good(browser.client.post("/api/v1/tokens", json={"name": "mine", "scopes": ["read"]}, headers=csrf))
    bystander = house.token_of(house.users[LOCAL_TEAM, Role.SUBMITTER], (Scope.READ,))
    with house.client(token=made["secret"]) as wrong_person, house.client(token=bystander) as somebody_else:
        good(wrong_person.get("/reports"))
        invite(house, other, Role.REVIEWER)
        problem(wrong_person.get("/reports"), 401, "not_signed_in")
        good(somebody_else.get("/reports"))
    assert made["token"]["id"] in [line.subject for line in log(house) if line.what == "token.revoke"]


def test_a_first_invitation_leaves_the_tokens_of_who_has_a_password(house):
    token = house.token_of(house.users[LOCAL_TEAM, Role.REVIEWER], (Scope.READ,))
    invite(house, {"email": EMAIL}, Role.REVIEWER)
    with house.client(token=token) as client:
        good(client.get("/reports"))


def test_an_admin_invites_on_the_page(house, provider, browser):
    name = f"x-{secrets.token_hex(4)}"
    with Visitor(house, Role.ADMIN) as admin:
        fields = {"name": name, "role": "reviewer", "email": EMAIL, "subject": "s-1"}
        assert "not both" in told(admin.post("/admin/users", fields), 422).text
        assert admin.post("/admin/users", fields | {"subject": ""}).status_code == 303
        assert f"Acme: {EMAIL}, has not come yet" in admin.page("/admin").text
        browser.sign_in()
        assert me(browser)["user"]["name"] == name
        assert f"Acme: {EMAIL}, bound to s-1" in admin.page("/admin").text
        change = {"role": "reviewer", "disabled": "no", "email": "other@example.com"}
        assert admin.post(f"/admin/users/{me(browser)['user']['id']}", change).status_code == 303
        assert "Acme: other@example.com, has not come yet" in admin.page("/admin").text
