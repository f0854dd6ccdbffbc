"""Signing in and out, making the first admin, and the files that pages load."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from auditor.api.guard import COOKIE
from auditor.api.routes.sessions import set_session_cookie
from auditor.api.server import TheCaller, TheServer
from auditor.api.web.files import static_file
from auditor.api.web.forms import TheForm
from auditor.api.web.guard import PageRoute
from auditor.api.web.render import forget_session, go, page, problems_of
from auditor.api.web.sign_in_page import inside, sign_in_page
from auditor.contracts.people import Bootstrap, SignIn
from auditor.contracts.problems import problems_in
from auditor.errors import InvalidInput, NotSignedIn

router = APIRouter(route_class=PageRoute)
_WRONG = NotSignedIn(
    "the team, the name or the password is wrong, or too many wrong ones came before",
    remedy="Try again; after five wrong passwords none is taken for 15 minutes.",
)


@router.get("/static/{name}")
def static(name: str) -> Response:
    """A style sheet, or the one script."""
    content, media_type = static_file(name)
    return Response(content, media_type=media_type, headers={"Cache-Control": "public, max-age=31536000, immutable"})


@router.get("/sign-in")
def show_sign_in(request: Request, server: TheServer, next: str = "/") -> Response:
    """The form; while there is nobody yet, that for the first admin. Who is signed in needs neither."""
    if request.state.identity is not None:
        return go(inside(next))
    if server.people.is_empty():
        return go("/setup")
    return sign_in_page(request, server, inside(next), team="local")


@router.post("/sign-in")
def sign_in(request: Request, server: TheServer, form: TheForm) -> Response:
    """Start a session."""
    team, name, target = form.text("team"), form.text("name"), inside(form.text("next"))
    try:
        wanted = SignIn(team=team, name=name, password=form.raw("password"))
        secret, _ = server.people.sign_in(wanted)
    except (ValidationError, NotSignedIn):
        return sign_in_page(request, server, target, team=team, name=name, **problems_of(_WRONG))
    response = go(target)
    set_session_cookie(response, secret, request)
    return response


@router.post("/sign-out")
def sign_out(caller: TheCaller, request: Request) -> Response:
    """End the session."""
    cookie = request.cookies.get(COOKIE)
    if cookie is not None:
        caller.server.people.sign_out(cookie)
    return forget_session(go("/sign-in", "signed-out"))


@router.get("/setup")
def show_setup(request: Request) -> Response:
    """The form for the first admin."""
    if request.state.identity is not None:
        return go("/")
    return page(request, "setup.html.j2", name="")


@router.post("/setup")
def set_up(request: Request, server: TheServer, form: TheForm) -> Response:
    """Make the first admin with the one-time token that `auditor serve` printed."""
    try:
        wanted = Bootstrap(token=form.text("token"), name=form.text("name"), password=form.raw("password"))
        server.people.bootstrap(wanted)
    except ValidationError as error:
        wrong = InvalidInput(problems_in(error, Bootstrap), remedy="Correct what is listed.")
        return page(request, "setup.html.j2", name=form.text("name"), **problems_of(wrong))
    except NotSignedIn as error:
        return page(request, "setup.html.j2", name=form.text("name"), **problems_of(error))
    return go("/sign-in", "admin")
