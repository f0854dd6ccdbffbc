"""Reports in every format, and their pictures: signed for the one who asks, for minutes, and each view written down."""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query, Response

from auditor.api.guard import GuardedRoute
from auditor.api.pages import After, Limit, page_of
from auditor.api.references import full_reports, place_of, reference_of
from auditor.api.server import Caller, TheCaller
from auditor.api.views import report_view
from auditor.contracts.base import digest_of
from auditor.contracts.jobs import JobKind
from auditor.contracts.report import Gallery, GalleryRow
from auditor.contracts.service import Page, Picture, PictureRow, ReportView
from auditor.errors import InvalidInput, NotAllowed, NotFound
from auditor.report.formats import FORMATS, format_named, render
from auditor.service.records import StoredReport

router = APIRouter(tags=["reports"], route_class=GuardedRoute)

AgainstBaseline = Annotated[
    Literal["approved"] | None,
    Query(description="Fail only on what is worse than the audit that is approved as the model's baseline."),
]
SIGNED_FOR_S = 300
_MEDIA: Mapping[str, str] = {
    "json": "application/json",
    "html": "text/html; charset=utf-8",
    "markdown": "text/markdown; charset=utf-8",
    "sarif": "application/sarif+json",
    "junit": "application/xml",
}
_AS_DATA = {
    "Cache-Control": "private, no-cache",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox",
    "X-Content-Type-Options": "nosniff",
}
"""A report carries names that others chose: even a browser that is talked into it runs nothing of it."""


@router.get("/reports")
def list_reports(caller: TheCaller, limit: Limit = 50, after: After = None) -> Page[ReportView]:
    """The newest reports of full audits and of repairs, without a repair's trials."""
    with caller.transactions() as tx:
        return page_of(partial(full_reports, tx), report_view, place_of, limit, after)


@router.get("/reports/{report_id}/entry")
def show_entry(report_id: str, caller: TheCaller) -> ReportView:
    """What lists say of a report. The id may be the job's, or the first characters of either."""
    return report_view(caller.services.audits.find_report(report_id))


@router.get(
    "/reports/{report_id}",
    response_class=Response,
    responses={200: {"content": {media.partition(";")[0]: {} for media in _MEDIA.values()}}, 304: {}},
)
def show_report(
    report_id: str,
    caller: TheCaller,
    format: Annotated[str, Query(max_length=30, description=f"One of {', '.join(FORMATS)}.")] = "json",
    baseline: AgainstBaseline = None,
    if_none_match: Annotated[str | None, Header(max_length=2000)] = None,
) -> Response:
    """A report, as the gate decides on it today. Pictures are not in it: they are asked for one by one."""
    entry = caller.services.audits.find_report(report_id)
    fmt = format_named(format)
    audits = caller.services.audits
    if entry.kind is JobKind.REPAIR:
        if baseline is not None:
            raise InvalidInput("baseline: a repair is not decided on", remedy="Ask for the audit after it.")
        text = render(audits.get_repair_report(entry.job_id), fmt)
    else:
        stored = audits.report_of(entry)
        text = render(caller.reviews.decided(stored, against_baseline=baseline is not None), fmt, stored=stored)
    headers = {"ETag": f'"{digest_of(text.encode())}"', **_AS_DATA}
    known = {tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")}
    if not known.isdisjoint({headers["ETag"], "*"}):
        return Response(status_code=304, headers=headers)
    return Response(text, media_type=_MEDIA.get(fmt, "text/plain; charset=utf-8"), headers=headers)


@router.get("/reports/{report_id}/pictures")
def list_pictures(report_id: str, caller: TheCaller) -> tuple[PictureRow, ...]:
    """Where each picture can be seen, for a few minutes and by the one who asks; also of a repair's own audits."""
    entry, gallery = _gallery(caller, report_id)
    return tuple(
        PictureRow(
            label=row.label,
            name=row.name,
            attack=row.attack,
            pictures=tuple(
                Picture(kind=kind, url=signed(caller, entry, f"{index}-{kind}-{number}"), accepted=accepted)
                for kind, number, _, accepted in pictures_of(row)
            ),
        )
        for index, row in enumerate(gallery.rows)
    )


@router.get(
    "/reports/{report_id}/pictures/{picture}",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}}},
)
def show_picture(
    report_id: str,
    picture: str,
    caller: TheCaller,
    expires: Annotated[int, Query(ge=0, le=1 << 40)],
    signature: Annotated[str, Query(max_length=100)],
) -> Response:
    """A picture, at an address that the list gave. Written to the audit log before it is shown."""
    entry, gallery = _gallery(caller, report_id)
    good = hmac.compare_digest(_signature(caller, entry, picture, expires).encode(), signature.encode())
    if not good or expires < caller.services.clock.now().timestamp():
        raise NotAllowed("this address was not given to you, or is too old", remedy="Ask for the list again.")
    found = {
        f"{index}-{kind}-{number}": data
        for index, row in enumerate(gallery.rows)
        for kind, number, data, _ in pictures_of(row)
    }
    if picture not in found:
        raise NotFound(f"there is no picture '{picture}'", remedy="Ask for the list again.")
    caller.reviews.note_view(entry.report_id, picture)
    headers = {"Cache-Control": "private, no-store", "X-Content-Type-Options": "nosniff"}
    return Response(found[picture], media_type="image/png", headers=headers)


def _gallery(caller: Caller, reference: str) -> tuple[StoredReport, Gallery]:
    entry = caller.services.audits.find_report(reference)
    gallery = caller.services.audits.gallery_of(entry)
    if gallery is None:
        raise NotFound(
            f"the report '{reference}' has no pictures",
            remedy="It never had any, or the team's retention deleted them.",
        )
    return entry, gallery


def pictures_of(row: GalleryRow) -> Iterator[tuple[str, int, bytes, bool | None]]:
    """Kind, number, PNG, and whether it was accepted."""
    for number, (data, accepted) in enumerate(zip(row.reconstructions_png, row.accepted, strict=True)):
        yield "reconstruction", number, data, accepted
    if row.nearest_public_png is not None:
        yield "nearest-public", 0, row.nearest_public_png, None
    for number, data in enumerate(row.originals_png):
        yield "original", number, data, None


def signed(caller: Caller, entry: StoredReport, picture: str) -> str:
    """Address of a picture, for the one who asks and for a few minutes."""
    expires = int(caller.services.clock.now().timestamp()) + SIGNED_FOR_S
    signature = _signature(caller, entry, picture, expires)
    return f"/api/v1/reports/{reference_of(entry)}/pictures/{picture}?expires={expires}&signature={signature}"


def _signature(caller: Caller, entry: StoredReport, picture: str, expires: int) -> str:
    told = "\n".join((caller.me.user.id, reference_of(entry), entry.gallery_digest or "", picture, str(expires)))
    return hmac.digest(caller.server.key, told.encode(), "sha256").hex()
