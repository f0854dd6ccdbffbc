"""Every page, role and team, generated from the pages' table of rights; every form, with and without its token."""

import secrets

import pytest
from api_house import OTHERS
from api_specimen import specimen
from fastapi import APIRouter, FastAPI
from pages_house import Visitor, settle, told

from auditor.api.rights import check_rights
from auditor.api.web.app import PAGES
from auditor.api.web.guard import PageRoute
from auditor.api.web.rights import PAGE_RIGHTS
from auditor.contracts.people import Role
from auditor.service.records import LOCAL_TEAM

ROUTES = sorted(PAGE_RIGHTS)
FORMS = [route for route in ROUTES if route[0] == "POST"]
PROVING = {
    ("POST", "/sign-in"),
    ("POST", "/setup"),
    ("POST", "/sign-in/openid"),
    ("GET", "/sign-in/openid/done"),
}
LISTS = [path for method, path in ROUTES if method == "GET" and "{" not in path and (method, path) not in PROVING]
CALLERS = [None, *Role]
PASSWORD = "a long enough password"  # noqa: S105


@pytest.fixture(scope="module", autouse=True)
def _settled(house):
    yield
    settle(house)


def fields(things, method, path):
    """A form that works for whoever may send it."""
    new = f"x{secrets.token_hex(8)}"
    return {
        "/sign-in": {"team": "local", "name": new, "password": PASSWORD},
        "/setup": {"token": "aud_wrong", "name": new, "password": PASSWORD},
        "/submit": {
            "manifest": f"model:\n  name: {new}\n",
            "model_upload": things.bodies["POST", "/audits"]["model"],
        },
        "/audits/{report_id}/waivers": {"finding": "attack:ppa", "reason": "known and small", "days": "3"},
        "/audits/{report_id}/repairs": {"defense": "neg-ls", "points": "2.5", "search": "fisher"},
        "/data-sets": {"name": new},
        "/policies": {"policy": f"name: {new}\n"},
        "/account/tokens": {"name": new, "scopes": ["read"], "days": "3"},
        "/account/password": {"password": "correct horse battery", "current": "correct horse battery"},
        "/admin/users": {"name": new, "role": "reviewer", "password": PASSWORD},
        "/admin/users/{user_id}": {"role": "reviewer", "disabled": "no"},
        "/admin/retention": {"pictures_days": "", "private_data_days": ""},
        "/admin/teams": {"team": new, "admin": new, "password": PASSWORD},
    }.get(path, {})


def ask(visitor, method, path, things, **more):
    """The page, or its form filled in so that it works."""
    ids = {"name": "pages.css"} if path.startswith("/static") else things.ids
    address = path.format(**ids)
    if method == "GET":
        return visitor.get(address)
    files = {"file": ("data.npz", b"abc")} if path == "/data-sets" else None
    return visitor.post(address, fields(things, method, path), files=files, **more)


@pytest.mark.parametrize("role", CALLERS, ids=str)
@pytest.mark.parametrize(("method", "path"), [route for route in ROUTES if route not in PROVING])
def test_a_page_lets_in_whom_the_table_lets_in(house, method, path, role):
    right = PAGE_RIGHTS[method, path]
    things = specimen(house, LOCAL_TEAM, role or Role.SUBMITTER)
    with Visitor(house, role) as visitor:
        answer = ask(visitor, method, path, things)
    if right.role is not None and role is None:
        if method == "GET":
            assert answer.status_code == 303
            assert answer.headers["location"].startswith("/sign-in?next=%2F")
        else:
            assert "Sign in" in told(answer, 401).text
    elif right.role is not None and role.rank < right.role.rank:
        assert f"this takes the role '{right.role}'; you are '{role}'" in told(answer, 403).text
    else:
        assert answer.status_code in (200, 303), answer.text[-2000:]
        assert "/sign-in" not in answer.headers.get("location", "") or path in ("/sign-out", "/account/password")


@pytest.mark.parametrize(
    ("method", "path"), [route for route in ROUTES if "{" in route[1] and not route[1].startswith("/static")]
)
def test_what_another_team_owns_is_answered_like_what_does_not_exist(house, method, path):
    theirs = specimen(house, LOCAL_TEAM)
    missing = theirs.with_unknown_ids()
    with Visitor(house, Role.ADMIN, OTHERS) as visitor:
        hidden, nothing = ask(visitor, method, path, theirs), ask(visitor, method, path, missing)
    assert "Not found" in told(hidden, 404).text
    text = hidden.text
    for own, other in zip(theirs.known(), missing.known(), strict=True):
        text = text.replace(own, other)
    assert text == nothing.text


@pytest.mark.parametrize(
    "path",
    LISTS,
)
def test_lists_hold_nothing_of_another_team(house, path):
    theirs = specimen(house, LOCAL_TEAM)
    with Visitor(house, Role.ADMIN, OTHERS) as visitor:
        answer = visitor.get(path)
    assert answer.status_code in (200, 303)
    for own in theirs.known():
        assert own not in answer.text


@pytest.mark.parametrize(("method", "path"), [route for route in ROUTES if PAGE_RIGHTS[route].operator])
def test_the_operators_forms_are_closed_to_admins_of_other_teams(house, method, path):
    with Visitor(house, Role.ADMIN, OTHERS) as visitor:
        answer = ask(visitor, method, path, specimen(house, OTHERS))
    assert "the team that runs the installation" in told(answer, 403).text


@pytest.mark.parametrize("sent", ["", "0" * 64, "of another"])
@pytest.mark.parametrize(("method", "path"), FORMS)
def test_a_form_without_its_token_does_nothing(house, method, path, sent):
    things = specimen(house, LOCAL_TEAM, Role.ADMIN)
    with Visitor(house, Role.ADMIN) as visitor, Visitor(house, Role.ADMIN) as other:
        before = log(house)
        visitor.csrf = other.csrf if sent == "of another" else sent
        answer = ask(visitor, method, path, things)
    assert "this form was not made for this session" in told(answer, 403).text
    assert log(house) == before


def log(house):
    """How much has happened."""
    with house.services.database() as tx:
        return len(tx.trail.page(100_000)), len(tx.uploads.page(100_000)), len(tx.jobs.page(100_000))


def test_a_session_is_needed_not_a_token_of_the_api(house):
    """Pages know the cookie alone, so a token cannot be used past its scopes."""
    with Visitor(house) as visitor:
        header = {"Authorization": f"Bearer {house.tokens[LOCAL_TEAM, Role.ADMIN]}"}
        assert visitor.get("/admin", headers=header).status_code == 303


def test_no_page_is_without_a_right_and_no_right_without_a_page():
    router = APIRouter(route_class=PageRoute)
    router.add_api_route("/forgotten", lambda: "open to all")
    with pytest.raises(RuntimeError, match="GET /forgotten has no line"):
        check_rights([route for page in (*PAGES, router) for route in page.routes], PAGE_RIGHTS)
    with pytest.raises(RuntimeError, match="GET /sign-in has a line, but is no route"):
        check_rights([route for page in PAGES[1:] for route in page.routes], PAGE_RIGHTS)
    assert all(isinstance(route, PageRoute) for page in PAGES for route in page.routes)


def test_pages_are_no_part_of_the_described_api(house):
    app: FastAPI = house.app
    assert all(path.startswith("/api/v1/") for path in app.openapi()["paths"])
