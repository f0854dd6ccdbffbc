"""Which stored reports are shown in lists, and what names one in an address."""

from __future__ import annotations

from collections.abc import Iterable

from auditor.contracts.jobs import JobKind
from auditor.service.pipeline import FINISH
from auditor.service.records import StoredReport
from remediation.pipeline import AFTER

_FULL = frozenset({FINISH, AFTER + FINISH})


def full_audits(entries: Iterable[StoredReport]) -> list[StoredReport]:
    """Audits that people asked for, and those of repaired models, without the quick ones of a repair's candidates."""
    return [entry for entry in entries if entry.kind is JobKind.AUDIT and entry.unit_key in _FULL]


def reference_of(entry: StoredReport) -> str:
    """The job's id where this is the report that the job was for, else its digest: two runs may share a report's id."""
    return entry.digest if entry.kind is JobKind.AUDIT and entry.unit_key != FINISH else entry.job_id
