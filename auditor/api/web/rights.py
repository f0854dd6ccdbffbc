"""Who may open which page and send which form; `auditor.api.rights` is the same for the API."""

from __future__ import annotations

from collections.abc import Mapping

from auditor.api.rights import Right
from auditor.contracts.people import Role, Scope

_OPEN = Right(replayed=False)
_READ = Right(Role.SUBMITTER, Scope.READ)
_SUBMIT = Right(Role.SUBMITTER, Scope.SUBMIT)
_REVIEW = Right(Role.REVIEWER, Scope.REVIEW)
_ADMIN = Right(Role.ADMIN, Scope.ADMIN)
_OPERATOR = Right(Role.ADMIN, Scope.ADMIN, operator=True)

PAGE_RIGHTS: Mapping[tuple[str, str], Right] = {
    ("GET", "/static/{name}"): _OPEN,
    ("GET", "/sign-in"): _OPEN,
    ("POST", "/sign-in"): _OPEN,
    ("POST", "/sign-in/openid"): _OPEN,
    ("GET", "/sign-in/openid/done"): Right(replayed=False, proves=True),
    ("GET", "/setup"): _OPEN,
    ("POST", "/setup"): _OPEN,
    ("POST", "/sign-out"): _READ,
    ("GET", "/"): _READ,
    ("GET", "/submit"): _SUBMIT,
    ("POST", "/submit"): _SUBMIT,
    ("GET", "/jobs/{job_id}"): _READ,
    ("GET", "/jobs/{job_id}/progress"): _READ,
    ("POST", "/jobs/{job_id}/cancel"): _SUBMIT,
    ("POST", "/jobs/{job_id}/resume"): _SUBMIT,
    ("POST", "/jobs/{job_id}/rerun"): _SUBMIT,
    ("GET", "/audits/{report_id}"): _READ,
    ("GET", "/audits/{report_id}/pictures"): _REVIEW,
    ("POST", "/audits/{report_id}/waivers"): _REVIEW,
    ("POST", "/audits/{report_id}/waivers/{waiver_id}/withdraw"): _REVIEW,
    ("POST", "/audits/{report_id}/baseline"): _REVIEW,
    ("POST", "/audits/{report_id}/repairs"): _SUBMIT,
    ("GET", "/repairs/{repair_id}"): _READ,
    ("GET", "/compare"): _READ,
    ("GET", "/compare/pictures"): _REVIEW,
    ("GET", "/models"): _READ,
    ("GET", "/models/{model}"): _READ,
    ("GET", "/data-sets"): _READ,
    ("POST", "/data-sets"): _SUBMIT,
    ("POST", "/data-sets/{name}/remove"): _SUBMIT,
    ("GET", "/policies"): _READ,
    ("POST", "/policies"): _REVIEW,
    ("POST", "/policies/{name}/remove"): _REVIEW,
    ("GET", "/account"): _READ,
    ("POST", "/account/password"): _READ,
    ("POST", "/account/tokens"): _READ,
    ("POST", "/account/tokens/{token_id}/revoke"): _SUBMIT,
    ("GET", "/audit-log"): _REVIEW,
    ("GET", "/admin"): _ADMIN,
    ("POST", "/admin/users"): _ADMIN,
    ("POST", "/admin/users/{user_id}"): _ADMIN,
    ("POST", "/admin/retention"): _ADMIN,
    ("POST", "/admin/teams"): _OPERATOR,
}
