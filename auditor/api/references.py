"""Which stored reports are shown in lists, and what names one in an address."""

from __future__ import annotations

from collections.abc import Sequence

from auditor.contracts.jobs import JobKind
from auditor.service.pipeline import FINISH, FULL
from auditor.service.records import Place, Series, StoredReport
from auditor.service.repositories import UnitOfWork
from remediation.pipeline import COMPARE


def full_audits(
    tx: UnitOfWork, limit: int, after: Place | None = None, *, model: str | None = None
) -> Sequence[StoredReport]:
    """Audits that people asked for, and those of models repaired for good, without a repair's trials.

    Newest first, those that come after `after`; of one model or of all.
    """
    return tx.reports.page(limit, after, name=model, kind=JobKind.AUDIT, keys=FULL)


def full_reports(tx: UnitOfWork, limit: int, after: Place | None = None) -> Sequence[StoredReport]:
    """As `full_audits`, and the repairs."""
    return tx.reports.page(limit, after, keys=FULL | {COMPARE})


def audited_models(tx: UnitOfWork, limit: int, after: Place | None = None) -> Sequence[Series]:
    """The audits of each model as people submitted it, not of what repairs made of it; that audited last first."""
    return tx.reports.by_name(limit, after, kind=JobKind.AUDIT, keys={FINISH})


def origin_of(entry: StoredReport) -> str:
    """Empty for an audit that somebody asked for, else what a repair made it of."""
    if entry.is_of_job:
        return ""
    return "of the file that a repair made" if entry.unit_key in FULL else "a quick trial of a repair"


def place_of(entry: StoredReport) -> Place:
    """Where it stands in lists of reports."""
    return entry.created_at, entry.job_id


def reference_of(entry: StoredReport) -> str:
    """The job's id where this is the report that the job was for, else its digest: two runs may share a report's id."""
    return entry.job_id if entry.is_of_job else entry.digest
