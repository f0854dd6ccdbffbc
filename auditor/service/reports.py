"""Reports that units leave: read, checked against their contract, and listed; and read again by the rules of today."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import NamedTuple

from pydantic import ValidationError

from auditor.contracts.jobs import JobKind, UnitResult
from auditor.contracts.policy import Verdict
from auditor.contracts.repair import RepairReport
from auditor.contracts.report import AuditReport
from auditor.errors import NotFound, RunnerFailure, StorageAway, StorageFailure
from auditor.report.build import sealed
from auditor.risk.exit_code import worst_verdict
from auditor.risk.gate import by_its_evidence
from auditor.service.ports import ArtifactStore
from auditor.service.records import StoredReport, Unit
from auditor.service.repositories import Transactions, UnitOfWork

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
    """An audit's report: these very bytes, whatever ran later under the same id."""
    return AuditReport.model_validate_json(store.get_bytes(entry.digest))


def read_by_evidence(entry: StoredReport, store: ArtifactStore) -> AuditReport | None:
    """An audit's report by the rules of today; None where it is lost, damaged or nothing that they can reckon with.

    Raises StorageAway while the store does not answer.
    """
    try:
        return by_its_evidence(read_audit(entry, store))
    except StorageAway:
        raise
    except (NotFound, StorageFailure, ValueError, ArithmeticError):
        return None


def read_repair(
    entry: StoredReport, transactions: Transactions, store: ArtifactStore, *, whole: bool = False
) -> RepairReport:
    """A repair's report, with verdicts that are no better than what its audits' evidence gives by today's rules.

    Args:
        entry: the repair.
        transactions: the database.
        store: the reports.
        whole: raise where an audit of it cannot be read; else its verdict is then no pass.
    """
    report = RepairReport.model_validate_json(store.get_bytes(entry.digest))
    with transactions() as tx:
        entries = audits_of_repair(entry, tx)
    changes: dict[str, object] = {}
    notes = report.notes
    for when, audit in (("before", report.before_report_id), ("after", report.after_report_id)):
        stored: Verdict | None = getattr(report, f"verdict_{when}")
        if stored is None or (when == "before" and audit not in entries):
            continue
        found = entries.get(audit or "")
        if whole and found is None:
            raise NotFound(f"the audit {when} the repair is not there any more")
        if whole and found is not None:
            read: AuditReport | None = by_its_evidence(read_audit(found, store))
        else:
            read = None if found is None else read_by_evidence(found, store)
        given = Verdict.INCONCLUSIVE if read is None else read.decision.verdict
        if worst_verdict([stored, given]) is not stored:
            told = f"By today's rules the evidence of the audit {when} it gives {given}, not {stored}."
            changes[f"verdict_{when}"] = given
            notes = (*notes, told if read else f"The report of the audit {when} it cannot be read any more.")
        if read and read.policy.loosened() and not report.policy_loosened:  # older versions did not say it of repairs
            changes["policy_loosened"] = read.policy.loosened()
    return sealed(report.model_copy(update={**changes, "notes": notes})) if changes else report


def audits_of_repair(repair: StoredReport, tx: UnitOfWork) -> dict[str, StoredReport]:
    """The audit that a repair began with, and those that it made, as far as they are stored; by their ids."""
    payload = tx.jobs.get(repair.job_id).payload
    entries = list(tx.reports.of_job(repair.job_id))
    with suppress(NotFound):
        entries.append(tx.reports.find(payload["data"]["report.json"]))
    return {entry.report_id: entry for entry in entries if entry.kind is JobKind.AUDIT}
