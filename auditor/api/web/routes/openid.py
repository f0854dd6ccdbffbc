"""Signing in through the OpenID Connect provider: to it, and back from it."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from auditor.adapters.openid import OpenIdProvider
from auditor.adapters.openid_settings import CALLBACK
from auditor.api.guard import needs_encryption
from auditor.api.routes.sessions import set_session_cookie
from auditor.api.server import Server, TheServer
from auditor.api.web.forms import TheForm
from auditor.api.web.guard import PageRoute
from auditor.api.web.journey import LIFE, Journey, begun, opened
from auditor.api.web.render import go, page, problems_of
from auditor.api.web.sign_in_page import inside, sign_in_page
from auditor.errors import AuditorError, NotFound, NotSignedIn, ProviderUnavailable
from auditor.service.openid import printable

router = APIRouter(route_class=PageRoute)
COOKIE = "auditor_openid"
"""Holds the journey. Lax, not strict: it must come along when the provider sends the browser back."""
_PATH = "/sign-in/openid"


@router.post(_PATH)
def begin(request: Request, server: TheServer, form: TheForm) -> Response:
    """A page that leads to the provider.

    No redirect: browsers hold the whole way of a form, redirects at the provider too, to `form-action 'self'`.
    """
    provider, team, target = _provider(server), form.text("team") or "local", inside(form.text("next"))
    journey = begun(team, target, server.services.clock.now())
    try:
        address = provider.address(state=journey.state, nonce=journey.nonce, verifier=journey.verifier)
    except ProviderUnavailable as error:
        return sign_in_page(request, server, target, team=team, name=form.text("name"), **problems_of(error))
    response = page(request, "openid.html.j2", address=address, provider=provider.settings.name)
    response.set_cookie(
        COOKIE,
        journey.sealed(server.key),
        max_age=int(LIFE.total_seconds()),
        path=_PATH,
        httponly=True,
        samesite="lax",
        secure=needs_encryption(request),
    )
    return response


@router.get(CALLBACK)
def finish(request: Request, server: TheServer) -> Response:
    """Start a session for whom the provider vouches for, in the browser that was sent to it."""
    provider = _provider(server)
    journey = opened(request.cookies.get(COOKIE, ""), server.key, server.services.clock.now())
    try:
        if journey is None:
            raise NotSignedIn("this sign-in was not begun in this browser, or is older than 10 minutes", remedy=_AGAIN)
        secret = _session(request, server, provider, journey)
    except (NotSignedIn, ProviderUnavailable) as error:
        response = _refused(request, server, journey, error)
    else:
        response = go(journey.target)
        set_session_cookie(response, secret, request)
    response.delete_cookie(COOKIE, path=_PATH)
    return response


def _session(request: Request, server: Server, provider: OpenIdProvider, journey: Journey) -> str:
    """The secret of a new session; a refusal is in the audit log."""
    try:
        code = _code(request, provider.settings.issuer, journey)
        who = provider.redeem(code, nonce=journey.nonce, verifier=journey.verifier)
    except NotSignedIn as error:
        server.openid_sign_in.note_refusal(journey.team, error.message)
        error.remedy = _AGAIN
        raise
    secret, _ = server.openid_sign_in.sign_in(journey.team, who)
    return secret


def _code(request: Request, issuer: str, journey: Journey) -> str:
    """What the provider sent along with the browser; raises NotSignedIn where that is no answer to `journey`."""
    told = request.query_params
    if not journey.has_state(told.get("state", "")):
        raise NotSignedIn("the provider's answer is not to this sign-in")
    if told.get("iss", issuer) != issuer:
        raise NotSignedIn("the answer comes from another provider")
    if "error" in told:
        raise NotSignedIn(f"the provider refused: {printable(told['error'])}")
    if not told.get("code"):
        raise NotSignedIn("the provider sent no code")
    return told["code"]


def _refused(request: Request, server: Server, journey: Journey | None, error: AuditorError) -> Response:
    """The sign-in page, which says why; whoever is signed in already stays so."""
    request.state.identity = None
    team, target = ("local", "/") if journey is None else (journey.team, journey.target)
    return sign_in_page(request, server, target, team=team, **problems_of(error))


def _provider(server: Server) -> OpenIdProvider:
    if server.openid is None:
        raise NotFound("no OpenID Connect provider is configured here", remedy="Sign in with a password.")
    return server.openid


_AGAIN = "Begin again from the sign-in page."
