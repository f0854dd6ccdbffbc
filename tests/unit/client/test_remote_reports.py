"""Reports that commands read from a server."""

from types import SimpleNamespace

import pytest

from auditor.client.client import Client
from auditor.client.remote import RemoteAudits
from auditor.client.transport import Transport
from auditor.contracts.jobs import JobKind
from auditor.contracts.service import ReportView
from auditor.errors import InvalidInput, NotFound


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


@pytest.mark.parametrize("name", ["v1..2", "team@release", "net.v2", "a" * 64])
def test_every_name_of_a_server_can_be_asked_for(monkeypatch, name):
    asked = []
    monkeypatch.setattr(Transport, "ask", lambda _self, method, path, *_rest, **_more: asked.append((method, path)))
    Client("https://auditor.example").baseline(name)
    assert asked == [("GET", f"/baselines/{name}")]


@pytest.mark.parametrize("name", ["", ".", "..", "../people", "a/b", "a?b", "a b"])
def test_what_leads_elsewhere_is_no_name(name):
    with pytest.raises(InvalidInput, match="is not an id or a name"):
        Client("https://auditor.example").baseline(name)
