"""Whether the server works: for load balancers, orchestrators and Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Response

from auditor.adapters.prometheus import CONTENT_TYPE, metrics_text
from auditor.api.guard import GuardedRoute
from auditor.api.readiness import OK
from auditor.api.server import TheServer
from auditor.contracts.service import Health
from auditor.errors import StorageFailure

router = APIRouter(tags=["system"], route_class=GuardedRoute)


@router.get("/health")
def health() -> Health:
    """The process answers. Nothing else is asked, so that a database that restarts does not restart the API."""
    return Health(status="ok")


@router.get("/ready", responses={503: {"model": Health, "description": "Not ready."}})
async def ready(server: TheServer, response: Response) -> Health:
    """Database and store can be used, so work is accepted; what is accepted waits for a broker that is away."""
    checks = await server.readiness.ask()
    if all(check == OK for check in checks.values()):
        return Health(status="ok", checks=checks)
    response.status_code = StorageFailure.http_status
    return Health(status="not ready", checks=checks)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(server: TheServer) -> Response:
    """Metrics in Prometheus' text format."""
    return Response(metrics_text(server.services), media_type=CONTENT_TYPE)
