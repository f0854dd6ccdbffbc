import importlib
import inspect
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from auditor.adapters.celery_queue import CeleryQueue
from auditor.adapters.inline_queue import InlineQueue
from auditor.bootstrap import HANDLERS, PIPELINES, build_services, migrate, unit_handlers
from auditor.cli.options import local_services
from auditor.contracts.base import canonical_json
from auditor.contracts.jobs import AuditJob, JobKind, JobState
from auditor.contracts.manifest import Manifest, ModelSpec
from auditor.contracts.policy import Verdict
from auditor.db.migrate import HEAD
from auditor.errors import StorageFailure
from auditor.service.pipeline import audit_units
from auditor.service.records import Job, StoredReport, Submission
from auditor.settings import Settings
from auditor.testing.handlers import PLAN, fast_handlers
from auditor.testing.reports import sample_report, sample_target

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "module",
    ["auditor.bootstrap", "auditor.api.serving", "auditor.client.remote", "workers.lifecycle", "auditor.runner.child"],
)
def test_nothing_around_the_runner_imports_torch(module):
    code = f"import sys, {module}; sys.exit(bool({{'torch', 'onnxruntime', 'onnx'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # noqa: S603


def test_without_settings_everything_is_local(tmp_path):
    services = build_services(Settings(home=tmp_path / "new" / "home"))
    assert services.in_place
    assert services.jobs.list() == ()
    assert (tmp_path / "new" / "home" / "auditor.db").exists()
    assert isinstance(services.executor._queue, InlineQueue)
    services.close()


def test_with_a_broker_work_is_queued(tmp_path):
    services = build_services(Settings(home=tmp_path, broker_url="redis://nowhere:1/0"))
    assert not services.in_place
    assert isinstance(services.executor._queue, CeleryQueue)
    services.close()


def test_migrate_says_where_it_is(tmp_path):
    assert migrate(Settings(home=tmp_path)) == (HEAD, 0)


@pytest.fixture
def outdated(tmp_path):
    """Settings of an installation that lists a pass of other rules, and the evidence fails."""
    settings = Settings(home=tmp_path)
    services = build_services(settings)
    with services.database() as tx:
        manifest = Manifest(model=ModelSpec(name="m"))
        tx.submissions.add(Submission("s" * 32, "m", NOW, manifest, sample_target(), {"model": "a" * 64}))
        tx.jobs.add(Job("j" * 32, JobKind.AUDIT, "m", "s" * 32, "f" * 64, {}, NOW, JobState.DONE))
        digest = services.store.put_bytes(canonical_json(sample_report(Verdict.FAIL)).encode())
        tx.reports.add(
            StoredReport("e" * 64, "j" * 32, "finish", JobKind.AUDIT, "m", digest, None, "pass", "low", NOW, rules=0)
        )
    services.close()
    return settings


def test_no_command_tells_a_verdict_of_other_rules(outdated, monkeypatch):
    services = build_services(outdated)
    assert [entry.verdict for entry in services.audits.list_reports()] == ["inconclusive"], "looking changes nothing"
    services.close()
    monkeypatch.setenv("AUDITOR_HOME", str(outdated.home))
    assert [entry.verdict for entry in local_services().audits.list_reports()] == ["fail"]


def test_migrate_judges_by_the_rules_of_this_version(outdated):
    assert [migrate(outdated), migrate(outdated)] == [(HEAD, 1), (HEAD, 0)]


def test_a_home_that_cannot_be_made_is_a_storage_failure(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailure):
        build_services(Settings(home=tmp_path / "file" / "home"))


def test_every_unit_of_an_audit_has_a_handler():
    job = AuditJob(name="x", plan=PLAN, inputs={})
    (first,) = audit_units(job, {}, {})
    kinds = {"check", "probe", first.kind, "attack", "fisher", "finish"}
    assert kinds <= set(unit_handlers())
    assert kinds == set(fast_handlers())
    assert JobKind.AUDIT in PIPELINES


@pytest.mark.slow
@pytest.mark.parametrize("kind", HANDLERS)
def test_every_handler_exists_and_takes_a_unit_its_workspace_and_a_context(kind):
    module, _, function = HANDLERS[kind].partition(":")
    handler = getattr(importlib.import_module(module), function)
    assert list(inspect.signature(handler).parameters) == ["unit", "workspace", "ctx"]
