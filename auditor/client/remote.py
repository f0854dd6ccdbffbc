"""A server's use-cases with the methods of the local ones, so that a command does not know where it runs."""

from __future__ import annotations

import importlib
import tempfile
import time
from datetime import datetime
from pathlib import Path

from auditor.client.client import Client
from auditor.contracts.estimate import PlanEstimate
from auditor.contracts.gate import Approval
from auditor.contracts.jobs import JobKind, JobView, UnitView
from auditor.contracts.repair import RepairReport
from auditor.contracts.report import AuditReport, Gallery
from auditor.contracts.service import FileRef, NewAudit, NewRemediation, ReportView
from auditor.errors import InvalidInput, NotFound, UnreadableReport, WaitTimeout
from auditor.service.audits import SubmitRequest, require_full, require_kind
from auditor.service.execution import OnEvent, ignore
from auditor.service.intake import paths_in
from auditor.service.jobs import Started
from auditor.service.records import StoredReport
from auditor.service.states import TERMINAL
from auditor.service.views import changes
from remediation.service import RepairRequest

POLL_S = 1.0
_APPROVE_ONE = "A reviewer approves a complete audit on its page; until then, leave out --baseline approved."


class RemoteServices:
    """What a command works with when a server is configured.

    Attributes:
        in_place: never: the server's workers run.
    """

    in_place = False

    def __init__(self, url: str, token: str) -> None:
        self._client = Client(url, token)
        self.audits = RemoteAudits(self._client)
        self.jobs = RemoteJobs(self._client)
        self.repairs = RemoteRepairs(self._client)
        self.reviews = RemoteReviews(self._client)

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()

    def write_repaired_model(self, job_id: str, path: Path) -> None:
        """The model that a repair made."""
        self._client.repaired_model(job_id, path)


class RemoteJobs:
    """Jobs on a server."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def status(self, job_id: str) -> JobView:
        """Where a job is."""
        return self._client.job(job_id)

    def list(self, limit: int = 50) -> tuple[JobView, ...]:
        """The newest jobs."""
        return self._client.jobs(limit)

    def cancel(self, job_id: str) -> JobView:
        """Ask a job to stop."""
        return self._client.cancel(job_id)

    def resume(self, job_id: str) -> JobView:
        """Go on with a job."""
        return self._client.resume(job_id)

    def run_in_place(self, job_id: str, on_event: OnEvent = ignore) -> JobView:
        """Nothing runs here: follow it."""
        return self.wait(job_id, on_event)

    def wait(self, job_id: str, on_event: OnEvent = ignore, *, timeout_s: float | None = None) -> JobView:
        """Follow a job until it ends; raises WaitTimeout when it goes on beyond `timeout_s`."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        told: dict[str, UnitView] = {}
        while True:
            view = self.status(job_id)
            for event in changes(view, told):
                on_event(event)
            if view.state in TERMINAL:
                return view
            if deadline is not None and time.monotonic() >= deadline:
                raise WaitTimeout(f"job {view.id} was not done after {timeout_s:g} s; it goes on")
            time.sleep(POLL_S)


class RemoteAudits:
    """Audits on a server."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def submit(self, request: SubmitRequest, on_event: OnEvent = ignore) -> Started:
        """Send the files and start the audit; the server checks them. Folders are packed here."""
        files: dict[str, FileRef] = {}
        packing = importlib.import_module("auditor.client.packing")  # torch comes with it; nothing else here needs it
        with tempfile.TemporaryDirectory(prefix="auditor-") as folder:
            model = self._client.upload(packing.whole(request.model, Path(folder)), name=request.model.name)
            for place, path in paths_in(request.manifest).items():
                source = packing.packed(request, place, request.base / path, Path(folder))
                files[path] = FileRef(upload=self._client.upload(source, name=Path(path).name or path).id)
        started = self._client.start_audit(
            NewAudit(
                model=model.id,
                manifest=packing.without_folder_keys(request),
                files=files,
                policy=request.policy,
                budget_s=request.budget_s,
                fresh=request.fresh,
                priority=request.priority,
            )
        )
        return Started(started.job_id, reused=started.reused, state=started.state)

    def estimate(self, request: SubmitRequest, on_event: OnEvent = ignore) -> PlanEstimate:
        """An estimate is of this machine."""
        raise InvalidInput("a server does not estimate", remedy="Unset AUDITOR_SERVER_URL to estimate on this machine.")

    def find_report(self, reference: str) -> StoredReport:
        """The entry of a report."""
        return _entry(self._client.report_entry(reference))

    def list_reports(self, limit: int = 50) -> tuple[StoredReport, ...]:
        """The newest reports."""
        return tuple(_entry(view) for view in self._client.report_entries(limit))

    def get_report(self, reference: str) -> AuditReport:
        """An audit's report; raises NotFound for the report of a repair."""
        require_kind(self.find_report(reference), JobKind.AUDIT, reference)
        return self._client.audit_report(reference)

    def get_repair_report(self, reference: str) -> RepairReport:
        """A repair's report; raises NotFound for the report of an audit."""
        require_kind(self.find_report(reference), JobKind.REPAIR, reference)
        return self._client.repair_report(reference)

    def get_gallery(self, reference: str) -> Gallery | None:
        """None: on a server, pictures are looked at there, where each view is written down."""
        return None


class RemoteRepairs:
    """Repairs on a server."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def start(self, request: RepairRequest) -> Started:
        """Repair what an audit found."""
        if request.weights is not None and not request.weights.startswith("torchvision:"):
            raise InvalidInput(
                "--weights with a file is for repairs on this machine",
                remedy="Name the file as `repair.weights` in the manifest and submit again, or use torchvision:NAME.",
            )
        started = self._client.start_remediation(
            NewRemediation(
                audit=request.reference,
                weights=request.weights,
                max_accuracy_loss=request.max_accuracy_loss,
                defense=request.defense,
                search=request.search,
                params=request.params,
                fresh=request.fresh,
                priority=request.priority,
            )
        )
        return Started(started.job_id, reused=started.reused, state=started.state)


class RemoteReviews:
    """What a team has decided on a server."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def approved_baseline(self, model: str) -> tuple[AuditReport, Approval]:
        """The audit that is approved as a model's baseline, and what the approval lets through."""
        try:
            view = self._client.baseline(model)
        except NotFound:
            raise NotFound(f"no audit is approved as the baseline of '{model}'", remedy=_APPROVE_ONE) from None
        day = datetime.fromisoformat(view.approved_at).date()
        approval = Approval(approver=view.approved_by, approved=day, findings=view.findings)
        try:
            require_full(_entry(self._client.report_entry(view.digest)), view.digest[:12])
            return self._client.audit_report(view.digest), approval
        except (NotFound, UnreadableReport) as error:
            text = f"the audit that is approved as the baseline of '{model}': {error}"
            raise NotFound(text, remedy=_APPROVE_ONE) from None


def _entry(view: ReportView) -> StoredReport:
    return StoredReport(
        report_id=view.report_id,
        job_id=view.job_id,
        unit_key=view.unit_key,
        kind=view.kind,
        name=view.name,
        digest=view.digest,
        gallery_digest=None,
        verdict=view.verdict,
        level=view.level,
        created_at=datetime.fromisoformat(view.created_at),
        looser_policy=view.looser_policy,
    )
