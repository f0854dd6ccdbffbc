"""The API as one ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute

from auditor import __version__
from auditor.api.examples import add_examples
from auditor.api.problems import MEDIA_TYPE, add_handlers
from auditor.api.rights import RIGHTS, check_rights
from auditor.api.routes import audits, jobs, people, reports, reviews, sessions, system, uploads
from auditor.api.server import build_server
from auditor.api.web.app import add_pages
from auditor.bootstrap import Services
from auditor.contracts.service import Problem
from auditor.settings import Settings

PREFIX = "/api/v1"
ROUTERS: tuple[APIRouter, ...] = (
    system.router,
    sessions.router,
    people.router,
    uploads.router,
    uploads.streamed,
    audits.router,
    jobs.router,
    reports.router,
    reviews.router,
)


def build_app(
    services: Services,
    settings: Settings,
    *,
    routers: tuple[APIRouter, ...] = ROUTERS,
) -> FastAPI:
    """The application over `services`.

    Args:
        services: the use-cases.
        settings: where things are.
        routers: all routes.

    Raises:
        RuntimeError: a route is missing in the table of rights.
    """
    check_rights(route for router in routers for route in router.routes if isinstance(route, APIRoute))
    server = build_server(services, settings)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        if server.background is not None:
            server.background.start()
        yield
        if server.background is not None:
            server.background.stop()

    app = FastAPI(
        title="auditor",
        version=__version__,
        description="Model-inversion privacy audits of image classifiers.",
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.server = server
    add_handlers(app)
    problem = {"description": "See `Problem`.", "content": {MEDIA_TYPE: {"schema": {"$ref": _PROBLEM}}}}
    for router in routers:
        app.include_router(router, prefix=PREFIX, responses={"4XX": problem, "5XX": problem})
    add_pages(app, PREFIX)
    app.openapi = _with_more(app.openapi)  # type: ignore[method-assign]
    return app


_PROBLEM = "#/components/schemas/Problem"


def _with_more(described: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """The description with the schema of errors, with examples, and with what each route asks of its caller."""

    def openapi() -> dict[str, Any]:
        schema = described()
        components = schema.setdefault("components", {})
        components.setdefault("schemas", {})["Problem"] = Problem.model_json_schema()
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        for (method, path), right in RIGHTS.items():
            operation = schema["paths"].get(PREFIX + path, {}).get(method.lower())
            if operation is None:
                continue
            add_examples(operation, method, path)
            if right.role is not None:
                operation["security"] = [{"token": []}]
                operation["x-role"], operation["x-scope"] = right.role.value, right.scope.value
        return schema

    return openapi
