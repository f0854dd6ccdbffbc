"""Who may do what, in one table: no route works without a line here, and the app does not start with one missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fastapi.routing import APIRoute

from auditor.contracts.people import Role, Scope
from auditor.errors import NotAllowed, NotSignedIn
from auditor.service.people import Identity


@dataclass(frozen=True)
class Right:
    """What a route asks of whoever calls it.

    Attributes:
        role: the least role; None: open to everyone.
        scope: what a token must be made for.
        operator: only admins of the team that runs the installation.
        replayed: a repeated Idempotency-Key gets the first answer again; not where answers carry secrets.
        proves: though it is a GET, it proves who somebody is, so it counts as an attempt to sign in.
    """

    role: Role | None = None
    scope: Scope = Scope.READ
    operator: bool = False
    replayed: bool = True
    proves: bool = False


_OPEN = Right(replayed=False)
_READ = Right(Role.SUBMITTER, Scope.READ)
_SUBMIT = Right(Role.SUBMITTER, Scope.SUBMIT)
_REVIEW = Right(Role.REVIEWER, Scope.REVIEW)
_ADMIN = Right(Role.ADMIN, Scope.ADMIN)
_SELF = Right(Role.SUBMITTER, Scope.READ, replayed=False)

RIGHTS: Mapping[tuple[str, str], Right] = {
    ("GET", "/health"): _OPEN,
    ("GET", "/ready"): _OPEN,
    ("GET", "/metrics"): Right(Role.ADMIN, Scope.METRICS, operator=True),
    ("POST", "/bootstrap"): _OPEN,
    ("POST", "/session"): _OPEN,
    ("GET", "/session"): _SELF,
    ("DELETE", "/session"): _SELF,
    ("PUT", "/session/password"): Right(Role.SUBMITTER, Scope.ADMIN),
    ("GET", "/tokens"): _READ,
    ("POST", "/tokens"): Right(Role.SUBMITTER, Scope.ADMIN, replayed=False),
    ("DELETE", "/tokens/{token_id}"): _SUBMIT,
    ("GET", "/users"): _ADMIN,
    ("POST", "/users"): _ADMIN,
    ("PATCH", "/users/{user_id}"): _ADMIN,
    ("GET", "/teams"): Right(Role.ADMIN, Scope.ADMIN, operator=True),
    ("POST", "/teams"): Right(Role.ADMIN, Scope.ADMIN, operator=True),
    ("GET", "/retention"): _READ,
    ("PUT", "/retention"): _ADMIN,
    ("GET", "/audit-log"): _REVIEW,
    ("GET", "/uploads"): _READ,
    ("POST", "/uploads"): _SUBMIT,
    ("GET", "/uploads/{upload_id}"): _READ,
    ("PUT", "/uploads/{upload_id}"): _SUBMIT,
    ("DELETE", "/uploads/{upload_id}"): _SUBMIT,
    ("GET", "/data-sets"): _READ,
    ("POST", "/data-sets"): _SUBMIT,
    ("GET", "/data-sets/{name}"): _READ,
    ("DELETE", "/data-sets/{name}"): _SUBMIT,
    ("GET", "/submissions"): _READ,
    ("GET", "/submissions/{submission_id}"): _READ,
    ("POST", "/audits"): _SUBMIT,
    ("POST", "/remediations"): _SUBMIT,
    ("GET", "/remediations/{repair_id}/model"): _READ,
    ("GET", "/jobs"): _READ,
    ("GET", "/jobs/{job_id}"): _READ,
    ("POST", "/jobs/{job_id}/cancel"): _SUBMIT,
    ("POST", "/jobs/{job_id}/resume"): _SUBMIT,
    ("GET", "/jobs/{job_id}/events"): _READ,
    ("GET", "/reports"): _READ,
    ("GET", "/reports/{report_id}"): _READ,
    ("GET", "/reports/{report_id}/entry"): _READ,
    ("GET", "/reports/{report_id}/pictures"): _REVIEW,
    ("GET", "/reports/{report_id}/pictures/{picture}"): _REVIEW,
    ("GET", "/policies"): _READ,
    ("GET", "/policies/{name}"): _READ,
    ("PUT", "/policies/{name}"): _REVIEW,
    ("DELETE", "/policies/{name}"): _REVIEW,
    ("GET", "/baselines"): _READ,
    ("GET", "/baselines/{model}"): _READ,
    ("PUT", "/baselines/{model}"): _REVIEW,
    ("DELETE", "/baselines/{model}"): _REVIEW,
    ("GET", "/waivers"): _READ,
    ("POST", "/waivers"): _REVIEW,
    ("DELETE", "/waivers/{waiver_id}"): _REVIEW,
}


def check_rights(routes: Iterable[APIRoute], table: Mapping[tuple[str, str], Right] = RIGHTS) -> None:
    """Raise RuntimeError for every route without a line in the table, and every line without a route."""
    found = {(method, route.path) for route in routes for method in route.methods or ()}
    problems = [f"{method} {path} has no line in the table of rights" for method, path in sorted(found - table.keys())]
    problems += [f"{method} {path} has a line, but is no route" for method, path in sorted(table.keys() - found)]
    if problems:
        raise RuntimeError("; ".join(problems))


def require(right: Right, identity: Identity | None) -> None:
    """Raises NotSignedIn or NotAllowed where `identity` may not do what `right` asks for."""
    if right.role is None:
        return
    if identity is None:
        raise NotSignedIn("nobody is signed in, or the token or session is not valid (any more)")
    if right.scope not in identity.scopes:
        raise NotAllowed(f"the token lacks the scope '{right.scope}'", remedy=f"Make a token with '{right.scope}'.")
    if identity.user.role.rank < right.role.rank:
        raise NotAllowed(f"this takes the role '{right.role}'; you are '{identity.user.role}'")
    if right.operator and not identity.is_operator:
        raise NotAllowed("this is for admins of the team that runs the installation")
