"""Which stored reports are shown in lists, and what names one in an address."""

from __future__ import annotations

from collections.abc import Sequence

from auditor.contracts.jobs import JobKind
from auditor.service.pipeline import FINISH
from auditor.service.records import Place, Series, StoredReport
from auditor.service.repositories import UnitOfWork
from remediation.pipeline import AFTER

_FULL = frozenset({FINISH, AFTER + FINISH})


def full_audits(
    tx: UnitOfWork, limit: int, after: Place | None = None, *, model: str | None = None
) -> Sequence[StoredReport]:
    """Audits that people asked for, and those of repaired models, without the quick ones of a repair's candidates.

    Newest first, those that come after `after`; of one model or of all.
    """
    return tx.reports.page(limit, after, name=model, kind=JobKind.AUDIT, keys=_FULL)


def audited_models(tx: UnitOfWork, limit: int, after: Place | None = None) -> Sequence[Series]:
    """The full audits of each model, that audited last first."""
    return tx.reports.by_name(limit, after, kind=JobKind.AUDIT, keys=_FULL)


def place_of(entry: StoredReport) -> Place:
    """Where it stands in lists of reports."""
    return entry.created_at, entry.job_id


def reference_of(entry: StoredReport) -> str:
    """The job's id where this is the report that the job was for, else its digest: two runs may share a report's id."""
    return entry.digest if entry.kind is JobKind.AUDIT and entry.unit_key != FINISH else entry.job_id
