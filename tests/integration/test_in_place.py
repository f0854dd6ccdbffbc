"""The embedded installation: SQLite, local artifacts, the real runner process, no broker."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from auditor.bootstrap import build_services
from auditor.contracts.jobs import JobState, UnitState
from auditor.contracts.manifest import Manifest
from auditor.contracts.policy import Policy
from auditor.errors import InvalidInput
from auditor.service.audits import SubmitRequest
from auditor.service.claims import ClaimRules
from auditor.settings import Settings
from auditor.testing.handlers import let_go, wait_for

pytestmark = pytest.mark.slow
HANDLERS = "auditor.testing.handlers:fast_handlers"


@pytest.fixture
def settings(tmp_path):
    return Settings(home=tmp_path / "home", device="cpu")


@pytest.fixture
def services(settings):
    services = build_services(settings, handlers=HANDLERS)
    yield services
    services.close()


def submit(services, tmp_path, name):
    (tmp_path / "model.onnx").write_bytes(b"weights")
    manifest = Manifest.model_validate({"model": {"name": name}})
    return services.audits.submit(SubmitRequest(tmp_path / "model.onnx", manifest, tmp_path, Policy())).job_id


def states(view):
    return {unit.key: unit.state for unit in view.units}


def run_in_another_process(tmp_path, job_id):
    code = (
        "import pathlib, sys\n"
        "from auditor.bootstrap import build_services\n"
        "from auditor.settings import Settings\n"
        f"services = build_services(Settings(home=pathlib.Path({str(tmp_path / 'home')!r})), handlers={HANDLERS!r})\n"
        "def tell(event):\n"
        "    if event.unit_key == 'attack/ppa/0' and event.message is None: print('attacking', flush=True)\n"
        f"services.jobs.run_in_place({job_id!r}, tell)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # noqa: S603
    assert process.stdout.readline() == b"attacking\n", process.stderr.read().decode()
    return process


def runner_processes(tmp_path):
    """Runner processes that work under this test's home."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
            if b"auditor.runner" in command and str(tmp_path) in str((entry / "cwd").readlink()):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def test_a_whole_job_with_noise_and_a_failed_attack(services, tmp_path):
    view = services.jobs.run_in_place(submit(services, tmp_path, "noisy-broken-attack"))
    assert view.state is JobState.DONE
    assert states(view).pop("attack/ppa/0") is UnitState.FAILED
    report = services.audits.get_report(view.id)
    assert view.report_ids == (report.id,)


def test_a_refused_submission_leaves_nothing(services, settings, tmp_path):
    with pytest.raises(InvalidInput) as caught:
        submit(services, tmp_path, "refused")
    assert caught.value.problems == ("the model is not a model", "the data is not data")
    assert services.jobs.list() == ()
    assert [path for path in (settings.home / "artifacts").rglob("*") if path.is_file()] == []
    assert list((settings.home / "scratch").iterdir()) == []


def test_a_runner_killed_from_outside_fails_its_unit_and_the_job_tells_the_truth(services, tmp_path):
    view = services.jobs.run_in_place(submit(services, tmp_path, "killed"))
    assert view.state is JobState.DONE
    (killed,) = [unit for unit in view.units if unit.key == "attack/ppa/0"]
    assert killed.error.code == "runner_died"
    assert "SIGKILL" in killed.error.problems[0]
    assert (killed.attempt, killed.error.problems[1]) == (3, "tried 3 times")


def test_ctrl_c_leaves_no_process_and_a_job_that_can_be_resumed(services, settings, tmp_path):
    job_id = submit(services, tmp_path, "slow")
    with run_in_another_process(tmp_path, job_id) as process:
        wait_for(lambda: len(runner_processes(tmp_path)) == 1)
        process.send_signal(signal.SIGINT)
        process.communicate()
    wait_for(lambda: runner_processes(tmp_path) == [])  # it ends on its own when its parent is gone, a moment later
    view = services.jobs.status(job_id)
    assert view.state is JobState.CANCELLED
    assert states(view)["prepare"] is UnitState.DONE
    assert states(view)["attack/ppa/0"] is UnitState.PENDING
    let_go(settings.home)
    services.jobs.resume(job_id)
    view = services.jobs.run_in_place(job_id)
    assert view.state is JobState.DONE
    assert {unit.key: unit.attempt for unit in view.units}["prepare"] == 1


def test_kill_9_of_the_whole_program_is_seen_and_can_be_resumed(services, settings, tmp_path, monkeypatch):
    job_id = submit(services, tmp_path, "slow")
    with run_in_another_process(tmp_path, job_id) as process:
        wait_for(lambda: len(runner_processes(tmp_path)) == 1)
        process.kill()
        process.communicate()
    wait_for(lambda: runner_processes(tmp_path) == [])
    assert states(services.jobs.status(job_id))["attack/ppa/0"] is UnitState.RUNNING
    real = services.jobs._clock.now
    monkeypatch.setattr(services.jobs._clock, "now", lambda: real() + ClaimRules().lease * 1.1)
    (stalled,) = [unit for unit in services.jobs.status(job_id).units if unit.state is UnitState.RUNNING]
    assert stalled.stalled
    let_go(settings.home)
    services.jobs.resume(job_id)
    assert services.jobs.run_in_place(job_id).state is JobState.DONE
