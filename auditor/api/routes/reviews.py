"""Policies, baselines and waivers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from auditor.api.guard import GuardedRoute
from auditor.api.pages import After, Limit, page_of
from auditor.api.server import TheCaller
from auditor.api.views import baseline_view, place_of, policy_view, waiver_view
from auditor.contracts.policy import Policy
from auditor.contracts.service import BaselineView, NewBaseline, NewWaiver, Page, PolicyView, WaiverView
from auditor.errors import InvalidInput
from auditor.service.reviews import found_by_name

router = APIRouter(tags=["reviews"], route_class=GuardedRoute)


@router.get("/policies")
def list_policies(caller: TheCaller, limit: Limit = 50, after: After = None) -> Page[PolicyView]:
    """The team's named policies."""
    with caller.transactions() as tx:
        return page_of(tx.policies.page, policy_view, place_of, limit, after)


@router.get("/policies/{name}")
def show_policy(name: str, caller: TheCaller) -> PolicyView:
    """A named policy."""
    with caller.transactions() as tx:
        return policy_view(found_by_name(tx.policies.find(name=name), "policy", name))


@router.put("/policies/{name}")
def write_policy(name: str, body: Policy, caller: TheCaller) -> PolicyView:
    """Store a policy under its name, in place of the one that was there. Reports keep the policy they were made by."""
    if body.name != name:
        raise InvalidInput(f"name: the policy calls itself '{body.name}', the address '{name}'")
    return policy_view(caller.reviews.write_policy(body))


@router.delete("/policies/{name}", status_code=204)
def remove_policy(name: str, caller: TheCaller) -> None:
    """Forget a policy."""
    caller.reviews.remove_policy(name)


@router.get("/baselines")
def list_baselines(caller: TheCaller, limit: Limit = 50, after: After = None) -> Page[BaselineView]:
    """The approved audit of each model."""
    with caller.transactions() as tx:
        return page_of(tx.baselines.page, baseline_view, place_of, limit, after)


@router.get("/baselines/{model}")
def show_baseline(model: str, caller: TheCaller) -> BaselineView:
    """The approved audit of a model."""
    with caller.transactions() as tx:
        return baseline_view(found_by_name(tx.baselines.find(name=model), "baseline", model))


@router.put("/baselines/{model}")
def approve(model: str, body: NewBaseline, caller: TheCaller) -> BaselineView:
    """Approve a finished audit: later ones of this model are compared with it."""
    return baseline_view(caller.reviews.approve(model, body.report))


@router.delete("/baselines/{model}", status_code=204)
def withdraw_baseline(model: str, caller: TheCaller) -> None:
    """Take an approval back."""
    caller.reviews.withdraw_baseline(model)


@router.get("/waivers")
def list_waivers(
    caller: TheCaller,
    limit: Limit = 50,
    after: After = None,
    model: Annotated[str | None, Query(max_length=100, description="Of this model alone.")] = None,
) -> Page[WaiverView]:
    """Waivers, also those that have expired."""
    of_model = {} if model is None else {"model": model}
    with caller.transactions() as tx:
        return page_of(lambda n, place: tx.waivers.page(n, place, **of_model), waiver_view, place_of, limit, after)


@router.post("/waivers", status_code=201)
def waive(body: NewWaiver, caller: TheCaller) -> WaiverView:
    """Let a finding through for a while."""
    return waiver_view(caller.reviews.waive(body, caller.request_id))


@router.delete("/waivers/{waiver_id}", status_code=204)
def withdraw_waiver(waiver_id: str, caller: TheCaller) -> None:
    """Take a waiver back."""
    caller.reviews.withdraw_waiver(waiver_id)
