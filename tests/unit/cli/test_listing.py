"""`auditor list` in a terminal."""

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
import typer
from typer.testing import CliRunner

from auditor.cli import jobs
from auditor.contracts.jobs import JobKind, JobState, JobView
from auditor.errors import InvalidInput
from auditor.service.records import StoredReport

NOW = datetime(2030, 1, 1, tzinfo=UTC)
JOB = JobView(
    id="a" * 32,
    kind=JobKind.AUDIT,
    name="faces",
    state=JobState.DONE,
    created_at=NOW.isoformat(),
    report_ids=("r",),
)


def listed(monkeypatch, *, looser=None, among_newest=True, state=JobState.DONE):
    job = JOB.model_copy(update={"state": state})
    entry = StoredReport(
        "r", JOB.id, "finish", JobKind.AUDIT, "faces", "d", None, "pass", "low", NOW, looser_policy=looser
    )
    audits = SimpleNamespace(
        list_reports=lambda limit: (entry,) if among_newest else (), find_report={JOB.id: entry}.__getitem__
    )
    house = SimpleNamespace(audits=audits, jobs=SimpleNamespace(list=lambda limit: (job,)))
    monkeypatch.setattr(jobs, "services", lambda: house)
    app = typer.Typer()
    jobs.register(app)
    return CliRunner().invoke(app, ["list"], catch_exceptions=False).stdout


@pytest.mark.parametrize("looser", [True, False, None])
def test_a_verdict_by_a_looser_policy_is_marked(monkeypatch, looser):
    assert ("looser than the built-in one" in listed(monkeypatch, looser=looser)) is bool(looser)


def test_a_job_shows_its_verdict_however_many_reports_came_after_it(monkeypatch):
    assert "pass" in listed(monkeypatch, among_newest=False)


@pytest.mark.parametrize("words", [["list", "-f", "xml"], ["status", "abcd", "-f", "xml"]])
def test_a_format_that_there_is_not_is_refused(words):
    app = typer.Typer()
    jobs.register(app)
    with pytest.raises(InvalidInput, match="no format 'xml'"):
        CliRunner().invoke(app, words, catch_exceptions=False)


@pytest.mark.parametrize("state", [JobState.RUNNING, JobState.CANCELLED, JobState.FAILED])
def test_a_job_that_is_not_done_shows_no_verdict(monkeypatch, state):
    assert "pass" not in listed(monkeypatch, state=state)
