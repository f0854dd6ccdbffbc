"""`auditor list` in a terminal."""

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
import typer
from typer.testing import CliRunner

from auditor.cli import jobs
from auditor.contracts.jobs import JobKind, JobState, JobView
from auditor.service.records import StoredReport


@pytest.mark.parametrize("looser", [True, False, None])
def test_a_verdict_by_a_looser_policy_is_marked(monkeypatch, looser):
    now = datetime(2030, 1, 1, tzinfo=UTC)
    view = JobView(
        id="a" * 32,
        kind=JobKind.AUDIT,
        name="faces",
        state=JobState.DONE,
        created_at=now.isoformat(),
        report_ids=("r",),
    )
    entry = StoredReport(
        "r", view.id, "finish", JobKind.AUDIT, "faces", "d", None, "pass", "low", now, looser_policy=looser
    )
    house = SimpleNamespace(
        audits=SimpleNamespace(list_reports=lambda limit: [entry]), jobs=SimpleNamespace(list=lambda limit: [view])
    )
    monkeypatch.setattr(jobs, "services", lambda: house)
    app = typer.Typer()
    jobs.register(app)
    shown = CliRunner().invoke(app, ["list"], catch_exceptions=False).stdout
    assert ("looser than the built-in one" in shown) is bool(looser)
