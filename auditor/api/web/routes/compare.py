"""Two audits side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from auditor.api.references import full_audits
from auditor.api.server import TheCaller
from auditor.api.web.comparison import compare
from auditor.api.web.guard import PageRoute
from auditor.api.web.picture_pairs import PREVIEWED, may_look, pair_pictures
from auditor.api.web.render import go, page
from auditor.contracts.repair import PairedDifference
from auditor.contracts.scores import Measured
from auditor.report.page import drawn
from auditor.report.repair_view import paired_chart
from auditor.report.wording import VERDICT_SIGN, headline
from auditor.risk.gate import by_its_evidence

router = APIRouter(route_class=PageRoute)
Reference = Annotated[str, Query(max_length=64)]
CHOICES = 200
"""So many audits are offered, the newest."""


@router.get("/compare")
def show_comparison(request: Request, caller: TheCaller, before: Reference = "", after: Reference = "") -> Response:
    """Before against after; without both, the form that asks for them."""
    with caller.transactions() as tx:
        newest = full_audits(tx, CHOICES + 1)
    entries = [caller.services.audits.find_report(reference) if reference else None for reference in (before, after)]
    reports = [None if entry is None else by_its_evidence(caller.services.audits.report_of(entry)) for entry in entries]
    first, second = reports
    found = None if first is None or second is None else compare(first, second)
    one, other = entries
    pictures = None
    if one is not None and other is not None and found is not None and not found.obstacles and may_look(caller):
        pictures = pair_pictures(caller, one, other, most=PREVIEWED)
    return page(
        request,
        "compare.html.j2",
        section="models",
        choices=newest[:CHOICES],
        more=len(newest) > CHOICES,
        entries=entries,
        reports=reports,
        found=found,
        pictures=pictures,
        chart=_chart(found.differences) if found is not None else "",
        headline=headline,
        sign=VERDICT_SIGN,
    )


@router.get("/compare/pictures")
def show_pictures(
    request: Request,
    caller: TheCaller,
    before: Reference = "",
    after: Reference = "",
    show: Annotated[list[str] | None, Query(max_length=1000)] = None,
) -> Response:
    """The pictures of both audits side by side: coarse, but for those that were asked for, which are written down."""
    if not before or not after:
        return go("/compare")
    entries = [caller.services.audits.find_report(reference) for reference in (before, after)]
    asked = list(dict.fromkeys(show or ()))
    return page(
        request,
        "compare_pictures.html.j2",
        section="models",
        entries=entries,
        found=pair_pictures(caller, *entries, asked=asked),
        asked=asked,
    )


def _chart(differences: Sequence[PairedDifference]) -> Any:
    """The lift under each attack that is no control; the table has the rest."""
    shown = [
        row
        for row in differences
        if row.metric == "lift" and isinstance(row.difference, Measured) and not row.attack.startswith("control/")
    ]
    return drawn(paired_chart(shown)) if shown else ""
