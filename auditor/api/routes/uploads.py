"""Files: announced with size and sha256, sent in parts, given a name where they are data sets."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from auditor.api.guard import GuardedRoute, StreamedRoute
from auditor.api.pages import After, Limit, page_of
from auditor.api.server import TheCaller
from auditor.api.views import data_set_view, place_of, upload_view
from auditor.contracts.service import DataSetView, NewDataSet, NewUpload, Page, UploadView
from auditor.service.accounts import Upload
from auditor.service.reviews import found_by_name

router = APIRouter(tags=["uploads"], route_class=GuardedRoute)
streamed = APIRouter(tags=["uploads"], route_class=StreamedRoute)


@router.get("/uploads")
def list_uploads(caller: TheCaller, limit: Limit = 50, after: After = None) -> Page[UploadView]:
    """The team's uploads."""
    with caller.transactions() as tx:
        return page_of(tx.uploads.page, upload_view, place_of, limit, after)


@router.post("/uploads", status_code=201)
def start_upload(
    body: NewUpload,
    caller: TheCaller,
) -> UploadView:
    """Announce a file."""
    return upload_view(caller.uploads.start(body, caller.request_id))


@router.get("/uploads/{upload_id}")
def show_upload(upload_id: str, caller: TheCaller) -> UploadView:
    """How much of a file has come: a client that lost its connection goes on from `received`."""
    return upload_view(caller.uploads.get(upload_id))


@streamed.put(
    "/uploads/{upload_id}",
    openapi_extra={"requestBody": {"required": True, "content": {"application/octet-stream": {}}}},
)
async def send_part(
    upload_id: str,
    request: Request,
    caller: TheCaller,
    offset: Annotated[int, Query(ge=0, le=1 << 40, description="Where this part starts: `received`.")],
) -> UploadView:
    """Send a part, of any length. It is written as it comes; what came before a broken connection counts."""
    uploads = caller.uploads
    part = await run_in_threadpool(uploads.open_part, upload_id, offset)
    gone = False
    try:
        async for data in request.stream():
            if data:
                await run_in_threadpool(part.write, data)
    except ClientDisconnect:
        gone = True
    except BaseException:
        part.close()
        raise
    upload: Upload = await run_in_threadpool(uploads.close_part, upload_id, offset, part)
    if gone:
        raise ClientDisconnect
    return upload_view(upload)


@router.delete("/uploads/{upload_id}", status_code=204)
def remove_upload(upload_id: str, caller: TheCaller) -> None:
    """Forget an upload."""
    caller.uploads.remove(upload_id)


@router.get("/data-sets")
def list_data_sets(caller: TheCaller, limit: Limit = 50, after: After = None) -> Page[DataSetView]:
    """The team's named data sets."""
    with caller.transactions() as tx:
        return page_of(tx.data_sets.page, data_set_view, place_of, limit, after)


@router.post("/data-sets", status_code=201)
def name_data_set(body: NewDataSet, caller: TheCaller) -> DataSetView:
    """Give a finished upload a name, by which audits can use it."""
    return data_set_view(caller.uploads.name_data_set(body.name, body.upload, caller.request_id))


@router.get("/data-sets/{name}")
def show_data_set(name: str, caller: TheCaller) -> DataSetView:
    """A data set."""
    with caller.transactions() as tx:
        return data_set_view(found_by_name(tx.data_sets.find(name=name), "data set", name))


@router.delete("/data-sets/{name}", status_code=204)
def remove_data_set(name: str, caller: TheCaller) -> None:
    """Forget a data set; audits that used it keep it."""
    caller.uploads.remove_data_set(name)
