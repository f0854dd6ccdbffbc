import importlib
import inspect
import subprocess
import sys

import pytest

from auditor.adapters.celery_queue import CeleryQueue
from auditor.adapters.inline_queue import InlineQueue
from auditor.bootstrap import HANDLERS, PIPELINES, build_services, migrate, unit_handlers
from auditor.contracts.jobs import AuditJob, JobKind
from auditor.db.migrate import HEAD
from auditor.errors import StorageFailure
from auditor.service.pipeline import audit_units
from auditor.settings import Settings
from auditor.testing.handlers import PLAN, fast_handlers


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
    assert migrate(Settings(home=tmp_path)) == HEAD


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
