"""People of the team, retention, the audit log; for the operator also teams."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from auditor.api.pages import After, page_of
from auditor.api.server import Caller, TheCaller
from auditor.api.views import place_of, retention_of, team_view, trail_entry, user_view
from auditor.api.web.forms import Form, TheForm
from auditor.api.web.guard import PageRoute
from auditor.api.web.render import go, page, problems_of
from auditor.contracts.people import NewTeam, NewUser, Retention, Role, UserChange
from auditor.contracts.problems import problems_in
from auditor.errors import AuditorError, Conflict, InvalidInput

router = APIRouter(route_class=PageRoute)
_LINES = 100


@router.get("/admin")
def show_admin(request: Request, caller: TheCaller) -> Response:
    """People, retention, teams."""
    return _admin(request, caller)


def _admin(request: Request, caller: Caller, form: Form | None = None, error: AuditorError | None = None) -> Response:
    with caller.transactions() as tx:
        users = [user_view(row) for row in tx.users.page(1000)]
        team = tx.teams.get(caller.me.team.id)
    teams = []
    if caller.me.is_operator:
        with caller.server.services.database() as tx:
            teams = [team_view(row) for row in tx.teams.page(1000)]
    typed = {} if form is None else {name: form.text(name) for name in form.texts if name != "password"}
    told = problems_of(error) if error else {}
    return page(
        request,
        "admin.html.j2",
        section="admin",
        users=users,
        roles=list(Role),
        retention=retention_of(team),
        teams=teams,
        provider="" if caller.server.openid is None else caller.server.openid.settings.name,
        typed=typed,
        **told,
    )


def _invalid(error: ValidationError, contract: Any) -> InvalidInput:
    return InvalidInput(problems_in(error, contract), remedy="Correct what is listed and send the form again.")


@router.post("/admin/users")
def add_user(request: Request, caller: TheCaller, form: TheForm) -> Response:
    """Add a person."""
    named = {"name": form.text("name"), "role": form.text("role")}
    given = named | {"password": form.raw("password") or None} | _invitation(form)
    try:
        caller.affairs.add_user(NewUser.model_validate(given))
    except ValidationError as error:
        return _admin(request, caller, form, _invalid(error, NewUser))
    except (Conflict, InvalidInput) as error:
        return _admin(request, caller, form, error)
    return go("/admin", "added")


@router.post("/admin/users/{user_id}")
def change_user(request: Request, user_id: str, caller: TheCaller, form: TheForm) -> Response:
    """Change a role or a password, or disable somebody."""
    given: dict[str, Any] = {"role": form.text("role") or None, "password": form.raw("password") or None}
    if form.text("disabled"):
        given["disabled"] = form.text("disabled") == "yes"
    given |= _invitation(form)
    try:
        caller.affairs.change_user(user_id, UserChange.model_validate(given))
    except ValidationError as error:
        return _admin(request, caller, None, _invalid(error, UserChange))
    except (Conflict, InvalidInput) as error:
        return _admin(request, caller, None, error)
    return go("/admin", "changed")


def _invitation(form: Form) -> dict[str, Any]:
    """How a person signs in through the provider, where the form says it."""
    given = {name: form.text(name) for name in ("email", "subject") if form.text(name)}
    return {"openid": given} if given else {}


@router.post("/admin/retention")
def set_retention(request: Request, caller: TheCaller, form: TheForm) -> Response:
    """For how long pictures and private data are kept; an empty field means for ever."""
    given = {name: form.number(name) for name in ("pictures_days", "private_data_days")}
    try:
        caller.affairs.set_retention(Retention.model_validate(given))
    except ValidationError as error:
        return _admin(request, caller, form, _invalid(error, Retention))
    return go("/admin", "changed")


@router.post("/admin/teams")
def add_team(request: Request, caller: TheCaller, form: TheForm) -> Response:
    """Make a team with its first admin."""
    given = {"name": form.text("team"), "admin": form.text("admin"), "password": form.raw("password")}
    try:
        caller.affairs.add_team(NewTeam.model_validate(given))
    except ValidationError as error:
        return _admin(request, caller, form, _invalid(error, NewTeam))
    except Conflict as error:
        return _admin(request, caller, form, error)
    return go("/admin", "team")


@router.get("/audit-log")
def show_audit_log(request: Request, caller: TheCaller, after: After = None) -> Response:
    """Every decision, and every view of a picture."""
    with caller.transactions() as tx:
        part = page_of(tx.trail.page, trail_entry, place_of, _LINES, after or None)
    following = urlencode({"after": part.next}) if part.next else ""
    return page(request, "audit_log.html.j2", section="audit-log", lines=part.items, following=following)
