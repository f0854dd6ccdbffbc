"""All pages, and how they are added to the API's application."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute

from auditor.api.rights import check_rights
from auditor.api.web.errors import answer_with_pages
from auditor.api.web.rights import PAGE_RIGHTS
from auditor.api.web.routes import (
    account,
    admin,
    audits,
    compare,
    data_sets,
    jobs,
    models,
    openid,
    policies,
    queue,
    sign_in,
    submit,
)

PAGES: tuple[APIRouter, ...] = (
    sign_in.router,
    openid.router,
    queue.router,
    submit.router,
    jobs.router,
    audits.router,
    compare.router,
    models.router,
    data_sets.router,
    policies.router,
    account.router,
    admin.router,
)


def add_pages(app: FastAPI, api_prefix: str) -> None:
    """Add them.

    Args:
        app: with the API's own handlers of errors.
        api_prefix: what the addresses of the API begin with; errors there stay problem+json.

    Raises:
        RuntimeError: a page is missing in the table of rights.
    """
    check_rights((route for router in PAGES for route in router.routes if isinstance(route, APIRoute)), PAGE_RIGHTS)
    for router in PAGES:
        app.include_router(router, include_in_schema=False)
    answer_with_pages(app, api_prefix)
