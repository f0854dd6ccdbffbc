"""People of a team, teams, retention, and the audit log."""

from __future__ import annotations

from fastapi import APIRouter

from auditor.api.guard import GuardedRoute
from auditor.api.pages import After, Limit, page_of
from auditor.api.server import TheCaller
from auditor.api.views import place_of, retention_of, team_view, trail_entry, user_view
from auditor.contracts.people import NewTeam, NewUser, Retention, TeamView, TrailEntry, UserChange, UserView
from auditor.contracts.service import Page

router = APIRouter(tags=["people"], route_class=GuardedRoute)


@router.get("/users")
def list_users(caller: TheCaller, limit: Limit = 50, after: After = None) -> Page[UserView]:
    """The team's people."""
    with caller.transactions() as tx:
        return page_of(tx.users.page, user_view, place_of, limit, after)


@router.post("/users", status_code=201)
def add_user(body: NewUser, caller: TheCaller) -> UserView:
    """Add a person to the team."""
    return user_view(caller.affairs.add_user(body, caller.request_id))


@router.patch("/users/{user_id}")
def change_user(user_id: str, body: UserChange, caller: TheCaller) -> UserView:
    """Change a person's role or password, or disable them."""
    return user_view(caller.affairs.change_user(user_id, body))


@router.get("/teams")
def list_teams(caller: TheCaller, limit: Limit = 50, after: After = None) -> Page[TeamView]:
    """All teams; for the operator."""
    with caller.server.services.database() as tx:
        return page_of(tx.teams.page, team_view, place_of, limit, after)


@router.post("/teams", status_code=201)
def add_team(body: NewTeam, caller: TheCaller) -> TeamView:
    """Make a team with its first admin; for the operator."""
    return team_view(caller.affairs.add_team(body, caller.request_id))


@router.get("/retention")
def show_retention(caller: TheCaller) -> Retention:
    """For how long the team keeps pictures and private data."""
    return retention_of(caller.me.team)


@router.put("/retention")
def set_retention(body: Retention, caller: TheCaller) -> Retention:
    """Change for how long the team keeps pictures and private data."""
    return retention_of(caller.affairs.set_retention(body))


@router.get("/audit-log")
def show_audit_log(caller: TheCaller, limit: Limit = 50, after: After = None) -> Page[TrailEntry]:
    """Every decision, and every view of a reconstruction."""
    with caller.transactions() as tx:
        return page_of(tx.trail.page, trail_entry, place_of, limit, after)
