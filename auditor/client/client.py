"""The API as Python methods: one for each thing that can be asked, contracts in, contracts out."""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from pydantic import ValidationError

from auditor.client.transport import Transport
from auditor.contracts.base import digest_of_file
from auditor.contracts.jobs import JobView
from auditor.contracts.people import Bootstrap, MadeToken, Me, NewTeam, NewToken, SignIn, TeamView, UserView
from auditor.contracts.policy import Policy
from auditor.contracts.problems import problems_in
from auditor.contracts.repair import RepairReport
from auditor.contracts.report import AuditReport
from auditor.contracts.service import (
    BaselineView,
    DataSetView,
    NewAudit,
    NewBaseline,
    NewDataSet,
    NewRemediation,
    NewUpload,
    NewWaiver,
    Page,
    PictureRow,
    PolicyView,
    ReportView,
    StartedView,
    UploadView,
    WaiverView,
)
from auditor.errors import AuditorError, Conflict, InvalidInput

T = TypeVar("T")
PAGE = 200
"""Items of a list that are asked for at once."""
PART_BYTES = 8 << 20
TRIES = 5
"""Of a part, as long as no byte of it arrives."""


class Client:
    """A server, asked in one name.

    Args:
        url: of the server, `https://audits.example`.
        token: made there; None: only what is open to everyone.
        part_bytes: of each part of an upload: one that breaks loses at most so much.
        sleep: waits before a request is repeated.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        part_bytes: int = PART_BYTES,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._transport = Transport(url, token, sleep)
        self._part_bytes = part_bytes

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._transport.close()

    def me(self) -> Me:
        """Who asks."""
        return self._transport.ask("GET", "/session", Me)

    def bootstrap(self, request: Bootstrap) -> UserView:
        """Make the first admin."""
        return self._transport.ask("POST", "/bootstrap", UserView, body=request)

    def sign_in(self, name: str, password: str, team: str = "local") -> Me:
        """With a password: what is asked from now on is asked in a session."""
        me = self._transport.ask("POST", "/session", Me, body=SignIn(team=team, name=name, password=password))
        self._transport.csrf_token = me.csrf_token
        return me

    def make_token(self, request: NewToken) -> MadeToken:
        """A token for oneself."""
        return self._transport.ask("POST", "/tokens", MadeToken, body=request)

    def make_team(self, request: NewTeam) -> TeamView:
        """A team with its first admin; for the operator."""
        return self._transport.ask("POST", "/teams", TeamView, body=request, key=secrets.token_hex(16))

    def upload(self, path: Path, *, name: str | None = None) -> UploadView:
        """Send a file, in parts; after a broken connection, or a restart, it goes on from what the server has."""
        try:
            size, sha256 = path.stat().st_size, digest_of_file(path)
        except OSError as error:
            raise InvalidInput(f"{path}: cannot be read: {error.strerror}") from None
        if not size:
            raise InvalidInput(f"{path}: is empty")
        try:
            announced = NewUpload(name=(name or path.name)[-200:], size=size, sha256=sha256)
        except ValidationError as error:
            raise InvalidInput(problems_in(error, NewUpload, where=repr(name or path.name))) from None
        upload = self._transport.ask("POST", "/uploads", UploadView, body=announced, key=secrets.token_hex(16))
        left = TRIES
        while not upload.complete:
            before = upload.received
            try:
                part = _part(path, before, self._part_bytes)
                upload = self._transport.send(f"/uploads/{upload.id}", part, before, UploadView)
            except AuditorError as error:
                left -= 1
                if not left or not (error.retryable or isinstance(error, Conflict)):
                    raise
                self._transport.sleep(error.retry_after_s or 0.5)
                upload = self._transport.ask("GET", f"/uploads/{upload.id}", UploadView)
            left = TRIES if upload.received > before else left
        return upload

    def name_data_set(self, request: NewDataSet) -> DataSetView:
        """Give an upload a name."""
        return self._transport.ask("POST", "/data-sets", DataSetView, body=request)

    def start_audit(self, request: NewAudit, *, key: str | None = None) -> StartedView:
        """Check and audit; a request whose answer was lost is not done twice.

        Args:
            request: what to audit.
            key: idempotency key; with the same one, the same request can be repeated by another process too.
        """
        key = key or secrets.token_hex(16)
        return self._transport.ask("POST", "/audits", StartedView, body=request, key=key)

    def start_remediation(self, request: NewRemediation) -> StartedView:
        """Repair and audit again."""
        return self._transport.ask("POST", "/remediations", StartedView, body=request, key=secrets.token_hex(16))

    def job(self, job_id: str) -> JobView:
        """Where a job is."""
        return self._transport.ask("GET", f"/jobs/{_safe(job_id)}", JobView)

    def jobs(self, limit: int) -> tuple[JobView, ...]:
        """The newest jobs, without their units."""
        return tuple(islice(self._listed("/jobs", Page[JobView], limit), limit))

    def cancel(self, job_id: str) -> JobView:
        """Ask a job to stop."""
        return self._transport.ask("POST", f"/jobs/{_safe(job_id)}/cancel", JobView, key=secrets.token_hex(16))

    def resume(self, job_id: str) -> JobView:
        """Go on with a job."""
        return self._transport.ask("POST", f"/jobs/{_safe(job_id)}/resume", JobView, key=secrets.token_hex(16))

    def report_entry(self, reference: str) -> ReportView:
        """What lists say of a report."""
        return self._transport.ask("GET", f"/reports/{_safe(reference)}/entry", ReportView)

    def report_entries(self, limit: int) -> tuple[ReportView, ...]:
        """The newest reports."""
        return tuple(islice(self._listed("/reports", Page[ReportView], limit), limit))

    def audit_report(self, reference: str) -> AuditReport:
        """An audit's report."""
        return self._transport.ask("GET", f"/reports/{_safe(reference)}", AuditReport)

    def repair_report(self, reference: str) -> RepairReport:
        """A repair's report."""
        return self._transport.ask("GET", f"/reports/{_safe(reference)}", RepairReport)

    def report_text(self, reference: str, fmt: str, *, against_baseline: bool = False) -> str:
        """A report in any of its formats; an audit's may be decided against the approved baseline of its model."""
        query = {"format": fmt} | ({"baseline": "approved"} if against_baseline else {})
        return self._transport.text(f"/reports/{_safe(reference)}", query).decode()

    def pictures(self, reference: str) -> tuple[PictureRow, ...]:
        """Where the pictures of a report can be seen; for reviewers."""
        return self._transport.ask("GET", f"/reports/{_safe(reference)}/pictures", tuple[PictureRow, ...])

    def repaired_model(self, job_id: str, destination: Path) -> None:
        """Write the model that a repair made, all of it or nothing."""
        with tempfile.TemporaryDirectory(dir=destination.parent, prefix=f".{destination.name}.") as folder:
            draft = Path(folder) / "model"
            with draft.open("wb") as handle:
                self._transport.stream(f"/remediations/{_safe(job_id)}/model", handle.write)
            draft.replace(destination)

    def write_policy(self, policy: Policy) -> PolicyView:
        """Store a policy under its name."""
        return self._transport.ask("PUT", f"/policies/{_safe(policy.name)}", PolicyView, body=policy)

    def approve(self, model: str, report: str) -> BaselineView:
        """Make a report the baseline of a model."""
        return self._transport.ask("PUT", f"/baselines/{_safe(model)}", BaselineView, body=NewBaseline(report=report))

    def baseline(self, model: str) -> BaselineView:
        """The baseline of a model."""
        return self._transport.ask("GET", f"/baselines/{_safe(model)}", BaselineView)

    def waive(self, request: NewWaiver) -> WaiverView:
        """Let a finding through for a while."""
        return self._transport.ask("POST", "/waivers", WaiverView, body=request, key=secrets.token_hex(16))

    def waivers(self, model: str | None = None) -> tuple[WaiverView, ...]:
        """All waivers, newest first."""
        return tuple(self._listed("/waivers", Page[WaiverView], model=model))

    def _listed(self, path: str, page: type[Page[T]], most: int = PAGE, **query: str | None) -> Iterator[T]:
        """A list, newest first, asked for part by part: at most `most` items at once."""
        after: str | None = None
        while True:
            part = self._transport.ask("GET", path, page, query={"limit": min(PAGE, most), "after": after, **query})
            yield from part.items
            after = part.next
            if after is None:
                return


def _part(path: Path, offset: int, left: int) -> Iterator[bytes]:
    """At most `left` bytes of a file."""
    with path.open("rb") as handle:
        handle.seek(offset)
        while left and (data := handle.read(min(1 << 16, left))):
            left -= len(data)
            yield data


def _safe(reference: str) -> str:
    """A reference as one part of a path; raises InvalidInput where it is none."""
    if reference in ("", ".", "..") or not all(letter.isalnum() or letter in "._@-" for letter in reference):
        raise InvalidInput(f"'{reference[:100]}' is not an id or a name")
    return reference
