"""What can go wrong around a submission: a clear message, the right exit code, nothing half-written."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from auditor.contracts.report import AuditReport

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
AUDITOR = str(Path(sys.executable).with_name("auditor"))


def clear(result, code, *parts):
    assert result.code == code, result.err
    assert "Traceback" not in result.err
    assert result.out == ""
    for part in parts:
        assert part in result.err


def test_a_missing_file(house, submission):
    clear(house("submit", submission / "nothing.onnx"), 2, "no model file")


@pytest.mark.parametrize("flags", [("--policy", "p.yaml"), ("--fail-on", "low"), ("--plan", "quick"), ("--fresh",)])
def test_resuming_with_another_policy_or_plan_is_refused(house, flags):
    clear(house("submit", "--resume", "abc", *flags), 2, "--resume", flags[0])


@pytest.mark.parametrize("flags", [("--timeout", "2s"), ("--no-wait",)])
def test_waiting_without_a_broker_is_refused(house, submission, flags):
    clear(house("submit", submission / "model.onnx", *flags), 2, "broker", "--resume")


def test_an_unknown_device(house, submission):
    clear(house("submit", submission / "model.onnx", env={"AUDITOR_DEVICE": "gpu7"}), 2, "device", "cuda")


def test_a_file_that_cannot_be_written_does_not_hide_the_verdict(house, submission, audited):
    result = house("submit", submission / "model.onnx", "-q", "-o", "json=/dev/full")
    assert result.code == (1 if audited.code == 1 else 2)
    assert "report" in result.out
    assert "/dev/full" in result.err


def test_a_report_goes_into_the_format_its_name_asks_for(house, audited, tmp_path):
    report = json.loads(audited.out)["id"]
    assert house("report", report, "-o", tmp_path / "r.html").code == 0
    assert "<html" in (tmp_path / "r.html").read_text()
    clear(house("report", report, "-o", tmp_path / "r"), 2, "format")
    clear(house("report", report, "-f", "table", "-o", tmp_path / "r.txt"), 2, "stdout")


def test_init_for_bare_weights_asks_for_the_architecture_and_a_folder(house, submission, tmp_path):
    result = house("init", submission / "model.safetensors", "-o", tmp_path / "none" / "auditor.yaml")
    clear(result, 2, "--architecture", "no folder")


def test_a_missing_manifest_names_the_command_that_writes_one(house, submission, tmp_path):
    (tmp_path / "model.onnx").write_bytes((submission / "model.onnx").read_bytes())
    clear(house("submit", tmp_path / "model.onnx", cwd=tmp_path), 2, "auditor init")


def test_a_refused_submission_leaves_no_job(new_house, submission, tmp_path):
    house = new_house()
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    clear(house("submit", tmp_path / "bad.onnx", "-c", submission / "auditor.yaml", "-q"), 2, "problem")
    assert house("list", "-f", "json").json() == []


def test_a_policy_with_a_typo(house, submission, tmp_path):
    (tmp_path / "p.yaml").write_text("fail_onn: high\n")
    result = house("submit", submission / "model.onnx", "--policy", tmp_path / "p.yaml")
    clear(result, 2, "fail_onn", "fail_on")


def test_a_broken_database(house, submission):
    url = "postgresql+psycopg://nobody:secret@127.0.0.1:1/none"
    result = house("submit", submission / "model.onnx", env={"AUDITOR_DATABASE_URL": url})
    clear(result, 2, "database")
    assert "secret" not in result.err


def test_a_data_folder_that_cannot_be_written(new_house, submission):
    result = new_house(Path("/dev/null/auditor"))("submit", submission / "model.onnx")
    clear(result, 2)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "a cancelled CI job"])
def test_an_interrupt_leaves_a_job_that_can_be_resumed(house, submission, audited, number):
    environment = os.environ | {"AUDITOR_HOME": str(house.home), "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    command = [AUDITOR, "submit", str(submission / "model.onnx"), "--fresh"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603
    seen = ""
    for line in process.stderr:
        seen += line
        if "attack/" in line:
            break
    time.sleep(0.2)
    process.send_signal(number)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130, seen + rest
    assert "Traceback" not in rest
    job = next(row for row in house("list", "-f", "json").json() if row["kind"] == "audit")
    assert (job["state"], job["verdict"]) == ("cancelled", None)
    resumed = house("submit", "--resume", job["id"], "-f", "json", "-q")
    first = AuditReport.model_validate_json(audited.out)
    assert AuditReport.model_validate_json(resumed.out).attacks == first.attacks


@pytest.mark.integration
def test_a_worker_gives_the_same_report_as_the_command_line(house, submission, audited, postgres_url, broker_url):
    """Real PostgreSQL, real Redis, a real worker, the real stages."""
    env = {"AUDITOR_DATABASE_URL": postgres_url, "AUDITOR_BROKER_URL": broker_url}
    assert house("migrate", env=env).code == 0
    environment = os.environ | {"AUDITOR_HOME": str(house.home), "OMP_NUM_THREADS": "1"} | env
    log = (house.home / "worker.log").open("w")
    worker = subprocess.Popen([AUDITOR, "worker"], env=environment, stdout=log, stderr=log)  # noqa: S603
    try:
        queued = house("submit", submission / "model.onnx", "--no-wait", env=env)
        assert queued.code == 0, queued.err
        result = house("wait", queued.out.strip(), "-f", "json", "--timeout", "8m", "-q", env=env)
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait(60)
        log.close()
    report, first = AuditReport.model_validate_json(result.out), AuditReport.model_validate_json(audited.out)
    assert result.code == audited.code
    assert (report.verdict, report.attacks) == (first.verdict, first.attacks)
