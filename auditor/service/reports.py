"""Reports that units leave: read, checked against their contract, and listed; and read again by the rules of today."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import NamedTuple, TypeVar

from pydantic import ValidationError

from auditor.contracts.jobs import JobKind, UnitResult
from auditor.contracts.policy import Verdict
from auditor.contracts.problems import problems_in
from auditor.contracts.repair import RepairReport
from auditor.contracts.report import AuditReport, Gallery
from auditor.errors import NotFound, RunnerFailure, StorageAway, StorageFailure, UnreadableReport
from auditor.report.build import sealed
from auditor.risk.exit_code import worst_verdict
from auditor.risk.gate import by_its_evidence
from auditor.service.ports import ArtifactStore
from auditor.service.records import StoredReport, Unit
from auditor.service.repositories import Transactions, UnitOfWork

R = TypeVar("R", AuditReport, RepairReport, Gallery)
T = TypeVar("T")
AUDIT_REPORT, REPAIR_REPORT, GALLERY = "report.json", "repair.json", "gallery.json"
"""Output names by which a unit leaves a report."""


class Told(NamedTuple):
    """What lists tell of a report; fields as in `StoredReport`."""

    verdict: str | None
    level: str | None
    looser_policy: bool


def told_of(report: AuditReport | RepairReport) -> Told:
    """What lists tell of it; of a repair, the verdict after."""
    if isinstance(report, RepairReport):
        after = report.verdict_after
        return Told(None if after is None else after.value, None, bool(report.policy_loosened))
    decision = report.decision
    level = None if decision.level is None else decision.level.value
    return Told(decision.verdict.value, level, bool(report.policy.loosened()))


def reports_left_by(unit: Unit, result: UnitResult, store: ArtifactStore, now: datetime) -> tuple[StoredReport, ...]:
    """The report among a unit's outputs, if there is one, as it will be listed.

    Raises:
        RunnerFailure: it does not keep to its contract; the unit then counts as failed.
    """
    found = [name for name in (AUDIT_REPORT, REPAIR_REPORT) if name in result.outputs]
    if len(found) > 1:
        raise RunnerFailure(f"unit '{unit.spec.key}' left two reports")
    return tuple(_read(unit, name, result, store, now) for name in found)


def _read(unit: Unit, name: str, result: UnitResult, store: ArtifactStore, now: datetime) -> StoredReport:
    data = store.get_bytes(result.outputs[name])
    contract, kind = (AuditReport, JobKind.AUDIT) if name == AUDIT_REPORT else (RepairReport, JobKind.REPAIR)
    try:
        report = contract.model_validate_json(data)
        told = told_of(report if isinstance(report, RepairReport) else by_its_evidence(report))
    except ValidationError as error:
        raise RunnerFailure(f"unit '{unit.spec.key}' left a report that breaks its contract: {error}") from None
    except (ArithmeticError, ValueError) as error:  # numbers that the contract lets through and no rule can reckon with
        raise RunnerFailure(f"unit '{unit.spec.key}' left a report that cannot be judged: {error}") from None
    return StoredReport(
        report_id=report.id,
        job_id=unit.job_id,
        unit_key=unit.spec.key,
        kind=kind,
        name="",
        digest=result.outputs[name],
        gallery_digest=result.outputs.get(GALLERY),
        created_at=now,
        **told._asdict(),
    )


def read_audit(entry: StoredReport, store: ArtifactStore) -> AuditReport:
    """An audit's report: these very bytes, whatever ran later under the same id.

    Raises UnreadableReport where they are no report of this version.
    """
    return _parsed(AuditReport, entry.digest, store, f"the report {entry.report_id[:12]}")


def read_pictures(entry: StoredReport, store: ArtifactStore) -> Gallery | None:
    """The pictures of a report; None when it has none, or no longer."""
    if entry.gallery_digest is None:
        return None
    return _parsed(Gallery, entry.gallery_digest, store, f"the pictures of the report {entry.report_id[:12]}")


def _parsed(contract: type[R], digest: str, store: ArtifactStore, what: str) -> R:
    data = store.get_bytes(digest)
    try:
        return contract.model_validate_json(data)
    except ValidationError as error:
        (first, *more) = problems_in(error, contract)
        others = f", and {len(more)} more" if more else ""
        raise UnreadableReport(f"{what} cannot be read: {first[:300]}{others}") from None


def read_by_evidence(entry: StoredReport, store: ArtifactStore) -> AuditReport | None:
    """An audit's report by the rules of today; None where it is gone or nothing that they can reckon with.

    Raises StorageAway while the store does not answer.
    """
    report = unless_gone(lambda: read_audit(entry, store))
    try:
        return None if report is None else by_its_evidence(report)
    except (ValueError, ArithmeticError):
        return None


def unless_gone(read: Callable[[], T]) -> T | None:
    """What `read` gives; None where it is lost, damaged, or breaks the contract of this version.

    Raises StorageAway while the store does not answer.
    """
    try:
        return read()
    except StorageAway:
        raise
    except (NotFound, StorageFailure, UnreadableReport):
        return None


def read_repair(entry: StoredReport, transactions: Transactions, store: ArtifactStore) -> RepairReport:
    """A repair's report, with verdicts that are no better than what lists tell of its audits."""
    report = _parsed(RepairReport, entry.digest, store, f"the report {entry.report_id[:12]}")
    with transactions() as tx:
        audits = audits_of_repair(entry, tx)
    changes: dict[str, object] = {}
    notes = report.notes
    for when in ("before", "after"):
        stored: Verdict | None = getattr(report, f"verdict_{when}")
        audit = audits.get(getattr(report, f"{when}_report_id") or "")
        told = Verdict(audit.verdict) if audit is not None and audit.verdict else Verdict.INCONCLUSIVE
        if stored is not None and worst_verdict([stored, told]) is not stored:
            changes[f"verdict_{when}"] = told
            notes = (*notes, f"By today's rules, or as it cannot be read, the audit {when} it is {told}, not {stored}.")
        if audit is not None and audit.looser_policy and not report.policy_loosened:  # older versions did not keep it
            changes["policy_loosened"] = ("see its audits",)
    return sealed(report.model_copy(update={**changes, "notes": notes})) if changes else report


def audits_of_repair(repair: StoredReport, tx: UnitOfWork) -> dict[str, StoredReport]:
    """The audit that a repair began with, and those that it made, as far as they are stored; by their ids."""
    payload = tx.jobs.get(repair.job_id).payload
    entries = list(tx.reports.of_job(repair.job_id))
    with suppress(NotFound):
        entries.append(tx.reports.find(payload["data"]["report.json"]))
    return {entry.report_id: entry for entry in entries if entry.kind is JobKind.AUDIT}
