"""How a worker ends, what it leaves to others, and what it does for them: real processes, Redis and PostgreSQL."""

import json
import os
import signal
from pathlib import Path

import pytest
import redis

from auditor.bootstrap import build_services, migrate
from auditor.contracts.jobs import JobState, UnitState
from auditor.contracts.manifest import Manifest
from auditor.contracts.policy import Policy
from auditor.db.engine import build_engine
from auditor.db.unit_of_work import SqlTransactions
from auditor.service.audits import SubmitRequest
from auditor.settings import Settings
from auditor.testing.handlers import let_go, wait_for
from auditor.testing.process import children_of
from auditor.testing.worker import WorkerProcess

pytestmark = [pytest.mark.integration, pytest.mark.slow]
HANDLERS = "auditor.testing.handlers:fast_handlers"


@pytest.fixture
def settings(tmp_path, postgres_url, broker_url):
    home = tmp_path / "home"
    home.mkdir()
    times = {"lease_s": 3.0, "heartbeat_s": 0.5, "reap_s": 0.5, "retry_delay_s": 0.2}
    settings = Settings(home=home, database_url=postgres_url, broker_url=broker_url, **times)
    migrate(settings)
    with redis.Redis.from_url(broker_url) as client:
        client.flushdb()
    return settings


@pytest.fixture
def services(settings):
    services = build_services(settings, handlers=HANDLERS)
    yield services
    services.close()


def submit(services, tmp_path, name, **options):
    (tmp_path / "model.onnx").write_bytes(b"weights")
    manifest = Manifest.model_validate({"model": {"name": name}})
    request = SubmitRequest(tmp_path / "model.onnx", manifest, tmp_path, Policy(), **options)
    return services.audits.submit(request).job_id


def states(view):
    return {unit.key: unit.state for unit in view.units}


def await_unit(services, job_id, state=UnitState.RUNNING, key="attack/ppa/0"):
    wait_for(lambda: states(services.jobs.status(job_id)).get(key) is state)


def ended(pid):
    """Gone, or a zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_sigterm_finishes_the_running_unit_and_takes_no_other(services, settings, tmp_path):
    job_id = submit(services, tmp_path, "slow")
    with WorkerProcess(settings, handlers=HANDLERS) as worker:
        await_unit(services, job_id)
        worker.signal(signal.SIGTERM)
        let_go(settings.home)
        assert worker.process.wait(30) == 0, worker.text
    view = services.jobs.status(job_id)
    (ran, *_) = [unit for unit in view.units if unit.key == "attack/ppa/0"]
    assert (ran.state, ran.attempt) == (UnitState.DONE, 1)
    assert set(states(view).values()) == {UnitState.DONE, UnitState.PENDING}
    assert (view.state, view.queue_position) == (JobState.QUEUED, 1)


@pytest.mark.parametrize("how", ["timeout", "twice", "quit"])
def test_what_is_not_finished_in_time_is_given_back_at_once(services, settings, tmp_path, how):
    job_id = submit(services, tmp_path, "slow")
    timeout = 0.5 if how == "timeout" else 600.0
    with WorkerProcess(settings, handlers=HANDLERS, drain_timeout_s=timeout) as worker:
        await_unit(services, job_id)
        worker.signal(signal.SIGQUIT if how == "quit" else signal.SIGTERM)
        if how == "twice":
            wait_for(lambda: '"event": "draining"' in worker.text)
            worker.signal(signal.SIGTERM)
        assert worker.process.wait(30) == 0, worker.text
    view = services.jobs.status(job_id)
    (unit,) = [unit for unit in view.units if unit.key == "attack/ppa/0"]
    assert (unit.state, unit.worker) == (UnitState.PENDING, None)
    assert view.state is JobState.QUEUED, "nobody cancelled it"
    if how != "quit":
        return
    let_go(settings.home)
    with WorkerProcess(settings, handlers=HANDLERS):
        assert services.jobs.wait(job_id, timeout_s=60).state is JobState.DONE


def test_cancelling_kills_the_whole_process_group_within_seconds(services, settings, tmp_path):
    job_id = submit(services, tmp_path, "stubborn")
    free_to_start_programs = settings.model_copy(update={"lease_s": 60.0, "isolation": "off"})
    with WorkerProcess(free_to_start_programs, handlers=HANDLERS) as worker:
        progress = []

        def told():
            progress[:] = [u.progress for u in services.jobs.status(job_id).units if u.progress is not None]
            return progress and " " in progress[0].stage

        wait_for(told)
        pids = progress[0].stage.split()
        assert not any(ended(pid) for pid in pids)
        services.jobs.cancel(job_id)
        assert services.jobs.wait(job_id, timeout_s=15).state is JobState.CANCELLED
        assert all(ended(pid) for pid in pids), worker.text


def test_each_pool_process_has_a_gpu_of_its_own(services, settings, tmp_path, postgres_url):
    job_id = submit(services, tmp_path, "paired")
    with WorkerProcess(settings, handlers=HANDLERS, gpus=("5", "GPU-ab")) as worker:
        assert services.jobs.wait(job_id, timeout_s=90).state is JobState.DONE, worker.text
        first, _second = worker.pool()
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: len(worker.pool()) == 2 and first not in worker.pool())
        again = submit(services, tmp_path, "paired", fresh=True)
        assert services.jobs.wait(again, timeout_s=90).state is JobState.DONE, worker.text
    engine = build_engine(postgres_url)
    with SqlTransactions(engine)() as tx:
        for job in (job_id, again):
            attacks = [unit for unit in tx.units.of_job(job) if unit.spec.key.startswith("attack/ppa/")]
            assert {unit.result.value["gpu"] for unit in attacks} == {"5", "GPU-ab"}
            assert {unit.result.value["device"] for unit in attacks} == {"cuda"}, "never the CPU, unnoticed"
    engine.dispose()


def test_a_killed_pool_process_a_killed_runner_and_an_emptied_broker_lose_nothing(services, settings, tmp_path):
    job_id = submit(services, tmp_path, "slow")
    with (
        WorkerProcess(settings, handlers=HANDLERS) as worker,
        redis.Redis.from_url(settings.broker_url.get_secret_value()) as client,
    ):
        await_unit(services, job_id)
        wait_for(lambda: len(children_of(worker.pool()[0])) == 1)
        (runner,) = children_of(worker.pool()[0])
        os.kill(runner, signal.SIGKILL)
        wait_for(lambda: any(unit.attempt == 2 for unit in services.jobs.status(job_id).units))
        os.kill(worker.pool()[0], signal.SIGKILL)
        client.flushdb()
        let_go(settings.home)
        view = services.jobs.wait(job_id, timeout_s=90)
    assert view.state is JobState.DONE, worker.text
    assert {unit.key: unit.attempt for unit in view.units if unit.attempt > 1} == {"attack/ppa/0": 3}
    assert len(view.report_ids) == 1


def test_the_log_is_json_with_ids_and_without_secrets(services, settings, tmp_path):
    job_id = submit(services, tmp_path, "broken-attack", team_id="team-a")
    with WorkerProcess(settings, handlers=HANDLERS) as worker:
        assert services.jobs.wait(job_id, timeout_s=60).state is JobState.DONE
        worker.signal(signal.SIGTERM)
        worker.process.wait(30)
    lines = [json.loads(line) for line in worker.text.splitlines() if line.startswith("{")]
    claimed = [line for line in lines if line["event"] == "unit_claimed"]
    assert [line["unit_key"] for line in claimed][:2] == ["prepare", "attack/ppa/0"]
    assert {(line["job_id"], line["team"], line["level"]) for line in claimed} == {(job_id, "team-a", "info")}
    (failed,) = [line for line in lines if line["event"] == "unit_failed"]
    assert (failed["unit_key"], failed["code"]) == ("attack/ppa/0", "unsupported_model")
    for secret in (settings.broker_url.get_secret_value().split("@")[0].split("//")[1], "private images of"):
        assert secret not in worker.text
