"""The parts of a worker that need no server: its log, how it hears that it is to stop, its options, its settings."""

import io
import json
import logging
import os
import subprocess
import sys

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from auditor.adapters.logs import set_up_logs
from auditor.cli.jobs import _place
from auditor.cli.main import app
from auditor.contracts.jobs import JobKind, JobState, JobView
from auditor.errors import StorageFailure
from auditor.service.reaper import Reaped
from auditor.settings import Settings
from auditor.testing.handlers import wait_for
from workers.drain import Drain
from workers.pool import reap_until


@pytest.fixture
def log():
    """Set up as in a worker; gives what was written, parsed."""
    root, written = logging.getLogger(), io.StringIO()
    handlers, level = list(root.handlers), root.level
    set_up_logs()
    root.handlers[0].setStream(written)
    yield lambda: [json.loads(line) for line in written.getvalue().splitlines()]
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_line_has_its_fields_and_no_others(log):
    logging.getLogger("x").info("unit_done", extra={"job_id": "j", "seconds": 1.5, "payload": "private"})
    (line,) = log()
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "unit_done", "job_id": "j", "seconds": 1.5, "level": "info", "logger": "x"}


def test_passwords_in_addresses_are_not_written(log):
    logging.getLogger("x").error("cannot reach %s", "redis://:hush@host:1/0 or postgresql://me:hush@host/db")
    try:
        raise OSError("postgresql://me:hush@host/db")
    except OSError:
        logging.getLogger("x").exception("failed")
    first, second = log()
    assert first["event"] == "cannot reach redis://***@host:1/0 or postgresql://***@host/db"
    assert "postgresql://***@host/db" in second["exception"]
    assert "hush" not in json.dumps([first, second])


def test_draining_turns_into_stopping_and_every_process_of_the_pool_sees_it():
    drain = Drain(0.01)
    assert (drain.draining, drain.stopping()) == (False, False)
    pid = os.fork()
    if pid == 0:
        wait_for(drain.stopping)
        os._exit(7)
    drain.drain()
    assert drain.draining
    wait_for(drain.stopping)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def test_the_reaper_goes_on_whatever_happens(log):
    rounds, drain = [], Drain(60)

    class Reaper:
        def reap(self):
            rounds.append(len(rounds))
            if rounds[-1] == 0:
                raise StorageFailure("the database could not be used")
            if rounds[-1] == 1:
                raise ZeroDivisionError
            drain.stop()
            return Reaped(put_back=1, announced=2)

    class Services:
        reaper = Reaper()

    reap_until(Services, drain, 0.001)
    lines = log()
    assert rounds == [0, 1, 2]
    assert [line["event"].split(":")[0] for line in lines] == ["reaping_put_off", "reaping_failed", "reaped"]
    assert (lines[2]["put_back"], lines[2]["announced"], lines[2]["swept"]) == (1, 2, 0)
    assert "ZeroDivisionError" in lines[1]["exception"]


def test_the_command_passes_its_options_on(monkeypatch):
    from workers import lifecycle

    asked = []
    monkeypatch.setenv("AUDITOR_BROKER_URL", "redis://nowhere:1/0")
    monkeypatch.setattr(lifecycle, "run_worker", lambda *given, **named: asked.append((*given[1:], named)) or 0)
    for arguments in ([], ["--gpus", "0, 1", "--drain-timeout", "9"], ["--concurrency", "3"], ["--gpus", ""]):
        assert CliRunner().invoke(app, ["worker", *arguments]).exit_code == 0
    assert asked == [
        (1, {"gpus": (), "drain_timeout_s": 600.0}),
        (1, {"gpus": ("0", "1"), "drain_timeout_s": 9.0}),
        (3, {"gpus": (), "drain_timeout_s": 600.0}),
        (1, {"gpus": ("",), "drain_timeout_s": 600.0}),
    ], "an empty list of GPUs is no wish for a CPU"


def test_a_lease_outlives_missed_heartbeats():
    with pytest.raises(ValidationError, match="at least twice AUDITOR_HEARTBEAT_S"):
        Settings(lease_s=9, heartbeat_s=5)
    assert Settings(lease_s=10, heartbeat_s=5).lease_s == 10
    with pytest.raises(ValidationError) as told:
        Settings(lease_s=9, max_attempts=0)
    assert {error["loc"] for error in told.value.errors()} == {("heartbeat_s",), ("max_attempts",)}
    with pytest.raises(ValidationError, match="finite number"):
        Settings(lease_s="inf", heartbeat_s="inf")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({}, ""),
        ({"queue_position": 2}, "  number 2 in the queue"),
        ({"queue_position": 1, "eta_s": 29.6}, "  number 1 in the queue, in about 30 s"),
        ({"stalled": True}, "  its worker has not been heard of"),
    ],
)
def test_status_says_where_a_job_stands(more, says):
    view = JobView(id="j", kind=JobKind.AUDIT, name="n", state=JobState.QUEUED, created_at="now", **more)
    assert _place(view) == says


def test_nothing_of_a_worker_needs_torch():
    code = "import sys, workers.lifecycle, auditor.adapters.prometheus; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # noqa: S603
