"""Use-cases on audits: submit a model, read a report."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from auditor.contracts.base import Contract, canonical_json
from auditor.contracts.estimate import PlanEstimate
from auditor.contracts.jobs import (
    AuditJob,
    JobEvent,
    JobKind,
    Log,
    Progress,
    RunnerMessage,
    UnitResult,
    UnitSpec,
    UnitState,
)
from auditor.contracts.manifest import Manifest
from auditor.contracts.plan import AuditPlan
from auditor.contracts.policy import Policy
from auditor.contracts.repair import RepairReport
from auditor.contracts.report import AuditReport, Gallery
from auditor.contracts.submission import TargetCard
from auditor.errors import Cancelled, InvalidInput, NotFound, RunnerFailure
from auditor.service.execution import Executor, OnEvent, ignore
from auditor.service.jobs import Jobs, Started
from auditor.service.outcomes import as_repaired, origins
from auditor.service.ports import ArtifactStore, Clock
from auditor.service.records import LOCAL_TEAM, StoredReport, Submission
from auditor.service.reports import audits_of_repair, read_audit, read_pictures, read_repair
from auditor.service.repositories import Transactions

CHECK, PROBE = "check", "probe"
_A = {JobKind.AUDIT: "an audit", JobKind.REPAIR: "a repair"}


@dataclass(frozen=True)
class SubmitRequest:
    """What a person or a CI job submits.

    Attributes:
        model: the model file.
        manifest: what is needed to read it, and where the data is.
        base: the folder that the manifest's paths are relative to.
        policy: the effective policy.
        fresh: run again even if the same audit is stored.
        budget_s: seconds for the whole audit, to which the plan is cut (see `auditor.service.budget`); None: no limit.
        team_id: who submits; owns submission, job and report.
        priority: of jobs that wait, those with a higher one go first.
        request_id: see `Jobs.of_request`.
    """

    model: Path
    manifest: Manifest
    base: Path
    policy: Policy
    fresh: bool = False
    budget_s: float | None = None
    team_id: str = LOCAL_TEAM
    priority: int = 0
    request_id: str | None = None


class Audits:
    """Audits.

    Args:
        store: artifacts.
        transactions: the database.
        executor: runs the check.
        jobs: creates the job.
        clock: the time.
        check_timeout_s: seconds that a check may take; None: as long as any unit.
    """

    def __init__(
        self,
        *,
        store: ArtifactStore,
        transactions: Transactions,
        executor: Executor,
        jobs: Jobs,
        clock: Clock,
        check_timeout_s: float | None = None,
    ) -> None:
        self._store = store
        self._transactions = transactions
        self._executor = executor
        self._jobs = jobs
        self._clock = clock
        self._check_timeout_s = check_timeout_s

    def submit(self, request: SubmitRequest, on_event: OnEvent = ignore) -> Started:
        """Check a model and its data, store them, and create the audit job.

        The check runs in the runner and reads the files where they are; the data that it found good it writes out, and
        exactly those bytes are stored and audited, as is the model file with the digest that was checked. A refused
        submission leaves nothing behind. With a budget, the check also probes this machine and cuts the plan.

        Raises:
            InvalidInput: with every problem found, or because no attack fits the budget or the check took too long.
            UnsupportedModel, RunnerFailure, StorageFailure: as named.
        """
        repeated = self._jobs.of_request(request.request_id)
        if repeated is not None:
            return repeated
        files = {"manifest.json": _json(request.manifest), "policy.json": _json(request.policy)}
        checked = self._check(CHECK if request.budget_s is None else PROBE, request, files, on_event, keep=True)
        missing = [name for name in ("plan.json", "target.json") if name not in checked.outputs]
        if missing:
            raise RunnerFailure(f"the check left no {' and no '.join(missing)}")
        plan = AuditPlan.model_validate_json(self._store.get_bytes(checked.outputs["plan.json"]))
        if plan.left_out:
            _tell(f"left out to fit the budget: {', '.join(plan.left_out)}", on_event)
        target = TargetCard.model_validate_json(self._store.get_bytes(checked.outputs["target.json"]))
        inputs = {name: self._store.put_bytes(data) for name, data in files.items()} | checked.outputs
        plan, target = as_repaired(plan, target, request.team_id, self._transactions, self._store)
        if plan.repairs:
            inputs |= {
                "plan.json": self._store.put_bytes(_json(plan)),
                "target.json": self._store.put_bytes(_json(target)),
            }
            for finding in origins(plan):
                _tell(finding.message, on_event)
        inputs.setdefault("model", self._store_model(request.model, target))
        submission = Submission(
            id=secrets.token_hex(16),
            name=request.manifest.model.name,
            created_at=self._clock.now(),
            manifest=request.manifest,
            target=target,
            inputs=inputs,
            team_id=request.team_id,
        )
        payload = AuditJob(name=submission.name, plan=plan, inputs=inputs).model_dump(mode="json")
        return self._jobs.start(
            JobKind.AUDIT,
            payload,
            submission,
            new_submission=True,
            fresh=request.fresh,
            priority=request.priority,
            request_id=request.request_id,
        )

    def estimate(self, request: SubmitRequest, on_event: OnEvent = ignore) -> PlanEstimate:
        """A dry run: check model and data as `submit` does, measure, say what the plan would cost; nothing is kept.

        Raises:
            InvalidInput, UnsupportedModel, RunnerFailure, StorageFailure: as for `submit`.
        """
        files = {"manifest.json": _json(request.manifest), "policy.json": _json(request.policy)}
        probed = self._check(PROBE, request, files, on_event, keep=False)
        return PlanEstimate.model_validate(probed.value["estimate"])

    def _check(
        self, kind: str, request: SubmitRequest, files: Mapping[str, bytes], on_event: OnEvent, *, keep: bool
    ) -> UnitResult:
        """Run a `check` or `probe` unit on the files where they are."""
        params: dict[str, JsonValue] = {
            "model": str(request.model.absolute()),
            "base": str(request.base.absolute()),
            "manifest": request.manifest.model_dump(mode="json"),
        }
        if kind == PROBE:
            params |= {"budget_s": request.budget_s, "keep": keep}

        def on_message(message: RunnerMessage) -> None:
            if isinstance(message, Progress | Log):
                on_event(JobEvent(job_id="", unit_key=kind, unit_state=UnitState.RUNNING, message=message))

        places = (str(request.model.absolute().parent), str(request.base.absolute()))
        unit = UnitSpec(kind=kind, key=kind, params=params, places=places)
        started, limit = self._clock.now(), self._check_timeout_s

        def late() -> bool:
            return limit is not None and (self._clock.now() - started).total_seconds() > limit

        try:
            return self._executor.compute(
                unit, team_id=request.team_id, on_message=on_message, should_stop=late, files=files
            )
        except Cancelled:
            if limit is None or not late():
                raise
            raise _too_slow(limit) from None

    def _store_model(self, path: Path, target: TargetCard) -> str:
        digest = self._store.put_file(path)
        if digest != target.digest:
            raise InvalidInput(f"the model file {path} changed while it was being checked")
        return digest

    def submission_of(self, job_id: str) -> Submission:
        """What a job works on."""
        with self._transactions() as tx:
            return tx.submissions.get(tx.jobs.get(job_id).submission_id)

    def find_report(self, reference: str) -> StoredReport:
        """The entry of a report, by its id, its job's id, or the first characters of either."""
        with self._transactions() as tx:
            return tx.reports.find(reference)

    def list_reports(self, limit: int = 50) -> tuple[StoredReport, ...]:
        """The newest reports."""
        with self._transactions() as tx:
            return tuple(tx.reports.latest(limit))

    def get_report(self, reference: str) -> AuditReport:
        """An audit's report; raises NotFound for the report of a repair."""
        return self.report_of(self._entry(reference, JobKind.AUDIT))

    def report_of(self, entry: StoredReport) -> AuditReport:
        """An audit's report: these very bytes, whatever ran later under the same id."""
        return read_audit(entry, self._store)

    def get_repair_report(self, reference: str) -> RepairReport:
        """A repair's report by the rules of today (`read_repair`); raises NotFound for the report of an audit."""
        return read_repair(self._entry(reference, JobKind.REPAIR), self._transactions, self._store)

    def get_gallery(self, reference: str) -> Gallery | None:
        """The pictures of a report; None when it has none."""
        return self.gallery_of(self.find_report(reference))

    def gallery_of(self, entry: StoredReport) -> Gallery | None:
        """Its pictures; None when it has none, or no longer."""
        return read_pictures(entry, self._store)

    def audits_of_repair(self, repair: StoredReport) -> dict[str, StoredReport]:
        """The audit that a repair began with, and those that it made, as far as they are stored; by their ids."""
        with self._transactions() as tx:
            return audits_of_repair(repair, tx)

    def _entry(self, reference: str, kind: JobKind) -> StoredReport:
        entry = self.find_report(reference)
        require_kind(entry, kind, reference)
        return entry


def require_kind(entry: StoredReport, kind: JobKind, reference: str) -> None:
    """Raises NotFound where `reference` named the report of another kind of job."""
    if entry.kind is not kind:
        raise NotFound(f"'{reference}' is the report of {_A[entry.kind]}, not of {_A[kind]}")


def require_full(entry: StoredReport, reference: str) -> None:
    """Raises InvalidInput where `reference` named the quick audit of a repair's candidate."""
    if entry.is_trial:
        raise InvalidInput(
            f"'{reference}' is a quick trial of a repair, not a full audit",
            remedy="Name the audit of the submission, or that of the file that the repair made.",
        )


def _tell(message: str, on_event: OnEvent) -> None:
    line = Log(level="warning", message=message)
    on_event(JobEvent(job_id="", unit_key=CHECK, unit_state=UnitState.RUNNING, message=line))


def _too_slow(limit_s: float) -> InvalidInput:
    return InvalidInput(
        f"the check of model and data took longer than {limit_s:g} s (AUDITOR_CHECK_TIMEOUT_S) and was stopped",
        remedy="Submit a smaller model or fewer images, or ask the operator to raise AUDITOR_CHECK_TIMEOUT_S; nothing "
        "was stored.",
    )


def _json(value: Contract) -> bytes:
    return canonical_json(value).encode()
