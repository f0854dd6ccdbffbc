"""A real Celery worker on a real Redis and a real PostgreSQL, computing in real runner processes."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from auditor.bootstrap import build_services, migrate
from auditor.contracts.jobs import JobState, UnitState
from auditor.contracts.manifest import Manifest
from auditor.contracts.policy import Policy
from auditor.db.engine import build_engine
from auditor.errors import InvalidInput, StorageFailure
from auditor.service.audits import SubmitRequest
from auditor.settings import Settings
from auditor.testing.handlers import let_go, wait_for
from auditor.testing.worker import WorkerProcess
from workers.app import build_app
from workers.lifecycle import run_worker

pytestmark = pytest.mark.integration
HANDLERS = "auditor.testing.handlers:fast_handlers"


@pytest.fixture(scope="module")
def settings(tmp_path_factory, shared_postgres_url, broker_url):
    home = tmp_path_factory.mktemp("home")
    settings = Settings(home=home, database_url=shared_postgres_url, broker_url=broker_url, device="cpu")
    migrate(settings)
    return settings


@pytest.fixture(scope="module")
def services(settings):
    services = build_services(settings, handlers=HANDLERS)
    yield services
    services.close()


@pytest.fixture(scope="module")
def worker(settings):
    with WorkerProcess(settings, handlers=HANDLERS, concurrency=2) as worker:
        yield worker


def submit(services, tmp_path, name):
    (tmp_path / "model.onnx").write_bytes(b"weights")
    manifest = Manifest.model_validate({"model": {"name": name}})
    return services.audits.submit(SubmitRequest(tmp_path / "model.onnx", manifest, tmp_path, Policy())).job_id


def states(view):
    return {unit.key: unit.state for unit in view.units}


def test_a_whole_job_through_broker_and_database(services, worker, tmp_path):
    job_id = submit(services, tmp_path, "broken-attack")
    view = services.jobs.wait(job_id, timeout_s=90)
    assert view.state is JobState.DONE, worker.text
    assert states(view).pop("attack/ppa/0") is UnitState.FAILED
    assert sum(state is UnitState.DONE for state in states(view).values()) == len(view.units) - 1
    assert services.audits.get_report(job_id).id == view.report_ids[-1]
    assert all(unit.attempt == 1 for unit in view.units)


def test_a_unit_that_runs_is_cancelled_within_seconds_and_resumed(services, worker, settings, tmp_path):
    job_id = submit(services, tmp_path, "slow")
    wait_for(lambda: states(services.jobs.status(job_id)).get("attack/ppa/0") is UnitState.RUNNING)
    services.jobs.cancel(job_id)
    view = services.jobs.wait(job_id, timeout_s=60)
    assert view.state is JobState.CANCELLED
    assert states(view)["attack/ppa/0"] is UnitState.PENDING
    let_go(settings.home)
    services.jobs.resume(job_id)
    assert services.jobs.wait(job_id, timeout_s=90).state is JobState.DONE


def test_neither_worker_nor_pool_process_imports_torch(services, worker, tmp_path):
    job_id = submit(services, tmp_path, "plain")
    services.jobs.wait(job_id, timeout_s=90)
    assert len(worker.pool()) == 2
    for pid in [worker.process.pid, *worker.pool()]:
        assert "libtorch" not in Path(f"/proc/{pid}/maps").read_text()


def test_a_worker_needs_a_broker_and_a_migrated_database(settings, postgres_url):
    with pytest.raises(InvalidInput, match="broker"):
        run_worker(settings.model_copy(update={"broker_url": None}))
    with pytest.raises(InvalidInput) as caught:
        run_worker(settings, 0, gpus=("0", "0"), drain_timeout_s=-1)
    says = ("at least one process", "named once, not '0,0'", "AUDITOR_DEVICE is cpu", "cannot be negative")
    assert len(caught.value.problems) == len(says)
    assert all(part in problem for part, problem in zip(says, caught.value.problems, strict=True))
    old = settings.model_copy(update={"database_url": SecretStr(postgres_url)})
    with pytest.raises(StorageFailure, match="'nothing'"):
        run_worker(old)
    migrate(old)
    engine = build_engine(postgres_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0000'")
    engine.dispose()
    with pytest.raises(StorageFailure, match="'0000'"):
        run_worker(old)


def test_messages_are_json_and_no_longer_task_is_started_twice(settings):
    conf = build_app(settings.broker_url.get_secret_value(), settings).conf
    assert conf.accept_content == ["json"]
    assert conf.broker_transport_options["visibility_timeout"] > settings.unit_timeout_s
    assert (conf.task_acks_late, conf.worker_prefetch_multiplier, conf.result_backend) == (True, 1, None)
