"""Reports that commands read from a server."""

from types import SimpleNamespace

import pytest

from auditor.client.remote import RemoteAudits
from auditor.contracts.jobs import JobKind
from auditor.contracts.service import ReportView
from auditor.errors import NotFound


def remote(kind):
    entry = ReportView(
        report_id="a" * 64,
        job_id="b" * 32,
        unit_key="x",
        kind=kind,
        name="faces",
        digest="c" * 64,
        verdict="pass",
        level=None,
        has_pictures=False,
        created_at="2030-01-01T00:00:00Z",
    )
    answers = SimpleNamespace(
        report_entry=lambda _reference: entry,
        audit_report=lambda _reference: JobKind.AUDIT,
        repair_report=lambda _reference: JobKind.REPAIR,
    )
    return RemoteAudits(answers)


def test_the_report_of_a_repair_is_told_from_that_of_an_audit():
    assert remote(JobKind.AUDIT).get_report("bbbb") is JobKind.AUDIT
    assert remote(JobKind.REPAIR).get_repair_report("bbbb") is JobKind.REPAIR
    with pytest.raises(NotFound, match="'bbbb' is the report of a repair, not of an audit"):
        remote(JobKind.REPAIR).get_report("bbbb")
    with pytest.raises(NotFound, match="'bbbb' is the report of an audit, not of a repair"):
        remote(JobKind.AUDIT).get_repair_report("bbbb")
