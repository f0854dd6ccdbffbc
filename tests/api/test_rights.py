"""Every route, role and team, generated from the table of rights: a route that nobody thought of cannot be reached."""

import secrets
from dataclasses import replace
from datetime import timedelta

import pytest
from api_house import OTHERS, problem
from api_specimen import specimen
from fastapi import APIRouter

from auditor.api.app import PREFIX, ROUTERS, build_app
from auditor.api.guard import GuardedRoute
from auditor.api.rights import RIGHTS
from auditor.contracts.people import Role, Scope
from auditor.service.records import LOCAL_TEAM

pytestmark = pytest.mark.slow
ROUTES = sorted(RIGHTS)
CALLERS = [None, *Role]


def ask(client, method, path, things, **more):
    """The request that would succeed for whoever may make it."""
    address = path.format(**things.ids)
    body = {"json": things.bodies[method, path]} if (method, path) in things.bodies else {}
    if (method, path) == ("PUT", "/uploads/{upload_id}"):
        body = {"content": b"abc"}
    return client.request(method, address, params=things.queries.get((method, path)), **body, **more)


@pytest.mark.parametrize("role", CALLERS, ids=str)
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_route_lets_in_whom_the_table_lets_in(house, method, path, role):
    right = RIGHTS[method, path]
    things = specimen(house, LOCAL_TEAM, role or Role.SUBMITTER)
    if role is not None:
        things = things.signed_for(house, house.users[LOCAL_TEAM, role])
    with house.client(role) as client:
        response = ask(client, method, path, things)
    if right.role is not None and role is None:
        problem(response, 401, "not_signed_in")
    elif right.role is not None and role.rank < right.role.rank:
        problem(response, 403, "not_allowed")
    elif path in ("/bootstrap", "/session") and method == "POST":
        problem(response, 401, "not_signed_in")  # open, but it asks for a proof of its own
    else:
        assert response.status_code < 300, response.text


@pytest.mark.parametrize(("method", "path"), [route for route in ROUTES if "{" in route[1]])
def test_what_another_team_owns_is_answered_like_what_does_not_exist(house, method, path):
    """Byte for byte, with the id alone replaced."""
    theirs = specimen(house, LOCAL_TEAM)
    missing = theirs.with_unknown_ids()
    with house.client(Role.ADMIN, OTHERS) as client:
        hidden, nothing = ask(client, method, path, theirs), ask(client, method, path, missing)
    if (method, path) == ("PUT", "/policies/{name}"):  # names are each team's own: this makes one of theirs
        assert hidden.status_code == 200
        with house.client(Role.ADMIN) as client:
            assert client.get(f"/policies/{theirs.ids['name']}").json()["created_by"] == "ann"
        return
    problem(hidden, 404, "not_found")
    text = hidden.text
    for own, other in zip(theirs.known(), missing.known(), strict=True):
        text = text.replace(own, other)
    assert text == nothing.text
    assert dict(hidden.headers) | {"date": "", "content-length": ""} == dict(nothing.headers) | {
        "date": "",
        "content-length": "",
    }


@pytest.mark.parametrize(
    ("method", "path"), [route for route in ROUTES if route[0] == "GET" and "{" not in route[1] and RIGHTS[route].role]
)
def test_lists_hold_nothing_of_another_team(house, method, path):
    theirs = specimen(house, LOCAL_TEAM)
    with house.client(Role.ADMIN, OTHERS) as client:
        response = ask(client, method, path, theirs)
    for own in theirs.known():
        assert own not in response.text


@pytest.mark.parametrize(("method", "path"), [route for route in ROUTES if RIGHTS[route].operator])
def test_the_operators_routes_are_closed_to_admins_of_other_teams(house, method, path):
    with house.client(Role.ADMIN, OTHERS) as client:
        problem(ask(client, method, path, specimen(house, OTHERS)), 403, "not_allowed")


@pytest.mark.parametrize(("method", "path"), [route for route in ROUTES if RIGHTS[route].role is not None])
def test_a_token_is_good_for_its_scopes_alone(house, method, path):
    others = tuple(scope for scope in Scope if scope is not RIGHTS[method, path].scope)
    token = house.token_of(house.users[LOCAL_TEAM, Role.ADMIN], others)
    with house.client(token=token) as client:
        body = problem(ask(client, method, path, specimen(house, LOCAL_TEAM)), 403, "not_allowed")
    assert RIGHTS[method, path].scope in body["detail"]


def test_an_admins_token_without_that_scope_reaches_nobody_elses_tokens(house):
    admin, other = house.users[LOCAL_TEAM, Role.ADMIN], house.users[LOCAL_TEAM, Role.REVIEWER]
    theirs = house.token_of(other, tuple(Scope))
    narrow = house.token_of(admin, (Scope.READ, Scope.SUBMIT))
    with house.services.database() as tx:
        token = tx.tokens.page(1, user_id=other.id)[0]
    with house.client(token=narrow) as client:
        assert {row["user"] for row in client.get("/tokens").json()["items"]} == {admin.name}
        problem(client.delete(f"/tokens/{token.id}"), 404, "not_found")
    with house.client(token=theirs) as client:
        assert client.get("/jobs").status_code == 200
    with house.client(token=house.token_of(admin, tuple(Scope))) as client:
        assert client.delete(f"/tokens/{token.id}").status_code == 204


@pytest.mark.parametrize("change", ["revoked_at", "expires_at"])
def test_a_token_that_is_over_is_no_token(house, change):
    user = house.users[LOCAL_TEAM, Role.ADMIN]
    token = house.token_of(user, tuple(Scope))
    with house.client(token=token) as client:
        assert client.get("/users").status_code == 200
        with house.services.database() as tx:
            newest = tx.tokens.page(1, user_id=user.id)[0]
            tx.tokens.change(newest.id, **{change: house.services.clock.now() - timedelta(seconds=1)})
        problem(client.get("/users"), 401, "not_signed_in")


def test_a_disabled_person_is_nobody(house):
    user = replace(house.users[LOCAL_TEAM, Role.REVIEWER], id=secrets.token_hex(16), name="leaver")
    with house.services.database() as tx:
        tx.users.add(user)
    with house.client(token=house.token_of(user, tuple(Scope))) as theirs, house.client(Role.ADMIN) as admin:
        assert theirs.get("/jobs").status_code == 200
        assert admin.patch(f"/users/{user.id}", json={"disabled": True}).status_code == 200
        problem(theirs.get("/jobs"), 401, "not_signed_in")


def test_the_description_has_exactly_the_routes_of_the_table(house):
    with house.client() as client:
        described = client.get("/openapi.json").json()["paths"]
    found = {
        (method.upper(), path.removeprefix(PREFIX)) for path, operations in described.items() for method in operations
    }
    assert found == set(RIGHTS)


def test_the_app_does_not_start_with_a_route_without_a_right(house):
    router = APIRouter(route_class=GuardedRoute)
    router.add_api_route("/forgotten", lambda: "open to all")
    with pytest.raises(RuntimeError, match="GET /forgotten has no line"):
        build_app(house.services, house.settings, routers=(*ROUTERS, router))


def test_the_app_does_not_start_with_a_right_without_a_route(house):
    with pytest.raises(RuntimeError, match="GET /health has a line, but is no route"):
        build_app(house.services, house.settings, routers=ROUTERS[1:])


def test_every_route_is_behind_the_guard():
    assert all(isinstance(route, GuardedRoute) for router in ROUTERS for route in router.routes)
