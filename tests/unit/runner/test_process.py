import subprocess
import sys
import time
from pathlib import Path

import pytest

from auditor.contracts.jobs import Log, Progress, UnitSpec
from auditor.contracts.plan import AttackSpec, AuditPlan, PriorSpec
from auditor.errors import AuditorError, Cancelled, RefusedFile, RunnerFailure, StorageFailure
from auditor.runner import process
from auditor.runner.process import ProcessRunner, child_environment

SECRETS = {
    "AUDITOR_DATABASE_URL": "postgresql://secret",
    "AUDITOR_BROKER_URL": "redis://secret",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "ANYTHING_ELSE": "secret",
}


STARTS_PROGRAMS = ("do_hang", "do_noisy")


@pytest.fixture(autouse=True)
def _handlers_can_be_imported(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


@pytest.fixture
def run(tmp_path):
    def call(kind, *, on_message=lambda _message: None, should_stop=lambda: False, params=None, **options):
        root = tmp_path / "unit"
        (root / "inputs").mkdir(parents=True, exist_ok=True)
        (root / "inputs" / "in.txt").write_bytes(b"hello")
        runner = ProcessRunner(handlers="runner_handlers:table", cache=tmp_path / "cache", **options)
        unit = UnitSpec(kind=kind, key=kind, params=params or {}, starts_processes=kind in STARTS_PROGRAMS)
        return runner.run(unit, root, team_id="local", on_message=on_message, should_stop=should_stop)

    call.root = tmp_path / "unit"
    return call


def is_alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def await_death(pid):
    for _ in range(500):
        if not is_alive(pid):
            return
        time.sleep(0.02)
    raise AssertionError(f"process {pid} is still alive")


def test_a_unit_gives_value_files_time_memory_and_throttled_progress(run):
    messages = []
    finished = run("do_good", on_message=messages.append, params={"a": [1, None]})
    assert finished.value == {"size": 5, "params": {"a": [1, None]}}
    assert finished.outputs == ("out.txt",)
    assert (run.root / "outputs" / "out.txt").read_bytes() == b"HELLO"
    assert finished.peak_memory_bytes > 1 << 20
    progress = [message for message in messages if isinstance(message, Progress)]
    assert (progress[0].done, progress[-1].done) == (1, 1000)
    assert len(progress) < 100
    assert Log(message="half-way") in messages


def test_the_child_holds_no_credentials_and_starts_without_torch(run, monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    value = run("do_environment", threads=3).value
    environment = value["environment"]
    assert not [name for name, content in environment.items() if "secret" in content]
    assert environment["ORT_DISABLE_TELEMETRY"] == "1"
    assert environment["CUDA_VISIBLE_DEVICES"] == "3"
    assert environment["OMP_NUM_THREADS"] == "3"
    assert Path(environment["TMPDIR"]).is_relative_to(run.root)
    assert value["cwd"] == str(run.root)
    assert value["torch"] is False
    assert str(run.root) not in value["path"], "a file that a unit wrote must not be importable"


def test_threads_are_left_alone_unless_asked_for():
    assert child_environment({"OMP_NUM_THREADS": "5"}, threads=0)["OMP_NUM_THREADS"] == "5"
    assert "OMP_NUM_THREADS" not in child_environment({}, threads=0)


@pytest.fixture
def warm(tmp_path):
    """A runner whose next child starts while this one's unit runs; `call(kind, **params)` gives the unit's value."""
    runner = ProcessRunner(handlers="runner_handlers:table", cache=tmp_path / "cache", preload=["fractions"])

    def call(kind, **params):
        root = tmp_path / f"unit-{len(list(tmp_path.iterdir()))}"
        (root / "inputs").mkdir(parents=True)
        unit = UnitSpec(kind=kind, key=kind, params=params)
        return runner.run(
            unit, root, team_id="local", on_message=lambda _message: None, should_stop=lambda: False
        ).value

    call.runner = runner
    yield call
    runner.close()


def test_a_child_that_waits_takes_the_next_unit_and_only_that(warm):
    pids, folders = [], []
    for _ in range(3):
        waiting = warm.runner._spare
        value = warm("do_environment", module="fractions")
        assert waiting is None or value["pid"] == waiting.pid
        assert value["imported"]
        pids.append(value["pid"])
        folders.append((value["cwd"], value["environment"]["TMPDIR"]))
    assert len(set(pids)) == len(set(folders)) == 3


def test_a_waiting_child_that_died_is_replaced(warm):
    warm("do_environment")
    warm.runner._spare.kill()
    warm.runner._spare.wait()
    assert warm("do_environment")["cwd"]


def test_closing_ends_the_waiting_child(warm):
    warm("do_environment")
    pid = warm.runner._spare.pid
    warm.runner.close()
    assert not is_alive(pid)
    warm.runner.close()


def test_a_waiting_child_ends_with_its_parent(tmp_path):
    (tmp_path / "inputs").mkdir()
    code = (
        "import os, pathlib, time\n"
        "from auditor.contracts.jobs import UnitSpec\n"
        "from auditor.runner.process import ProcessRunner\n"
        f"root = pathlib.Path({str(tmp_path)!r})\n"
        "runner = ProcessRunner(handlers='runner_handlers:table', cache=root / 'cache', preload=['fractions'])\n"
        "unit = UnitSpec(kind='do_environment', key='k')\n"
        "runner.run(unit, root, team_id='local', on_message=lambda message: None, should_stop=lambda: False)\n"
        "print(runner._spare.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:  # noqa: S603
        pid = parent.stdout.readline().decode().strip()
        assert is_alive(pid)
        parent.kill()
    await_death(pid)


def test_printing_cannot_break_the_protocol(run):
    assert run("do_noisy").value == {}


def test_an_error_of_the_unit_arrives_as_itself(run):
    with pytest.raises(RefusedFile) as caught:
        run("do_refuse")
    assert caught.value.problems == ("one", "two")
    assert caught.value.remedy == "convert it"


def test_a_defect_says_where(run):
    with pytest.raises(AuditorError, match=r"KeyError: 'missing' \(runner_handlers.py:\d+\)") as caught:
        run("do_defect")
    assert caught.value.code == "internal_error"


def test_a_value_that_is_not_json_is_a_defect(run):
    with pytest.raises(AuditorError, match="ValidationError"):
        run("do_nan")


def test_a_full_disk_is_a_storage_failure(run):
    with pytest.raises(StorageFailure, match="No space left"):
        run("do_full_disk")


@pytest.mark.parametrize(
    ("kind", "says"),
    [("do_exit", r"status 7 and no result\nlast words"), ("do_die", r"killed by SIGKILL .*memory.*\nlast words")],
)
def test_a_process_that_dies_is_reported_with_its_last_words(run, kind, says):
    with pytest.raises(RunnerFailure, match=says) as caught:
        run(kind)
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("kind", "says"),
    [("do_break_protocol", "broke its protocol: 'this is not JSON'"), ("do_long_line", "over the protocol")],
)
def test_a_broken_protocol_stops_the_process(run, monkeypatch, kind, says):
    monkeypatch.setattr(process, "GRACE_S", 0.2)
    with pytest.raises(RunnerFailure, match=says):
        run(kind, params={"descriptor": 3})


def test_an_unknown_kind_names_the_known_ones(run):
    with pytest.raises(RunnerFailure, match=r"'do_nothing'; known: .*do_good"):
        run("do_nothing")


def test_a_memory_limit_is_an_error_that_says_so(run):
    with pytest.raises(RunnerFailure, match="ran out of memory"):
        run("do_memory", memory_bytes=2 << 30)


@pytest.mark.parametrize("kind", ["do_gpu_memory", "do_cpu_memory"])
def test_too_little_memory_for_torch_says_what_to_do(run, kind):
    with pytest.raises(RunnerFailure, match="ran out of memory") as caught:
        run(kind)
    assert "smaller batch" in caught.value.remedy


def test_a_unit_over_its_time_is_killed_with_its_whole_group(run, monkeypatch):
    monkeypatch.setattr(process, "GRACE_S", 0.2)
    messages = []
    with pytest.raises(RunnerFailure, match=r"longer than 1.5 s") as caught:
        run("do_hang", on_message=messages.append, timeout_s=1.5)
    assert "AUDITOR_UNIT_TIMEOUT_S" in caught.value.remedy
    for pid in messages[0].stage.split():
        await_death(pid)


def test_cancelling_asks_first_and_then_kills_the_group(run, monkeypatch):
    monkeypatch.setattr(process, "GRACE_S", 0.2)
    messages = []
    with pytest.raises(Cancelled):
        run("do_hang", on_message=messages.append, should_stop=lambda: bool(messages))
    for pid in messages[0].stage.split():
        await_death(pid)


def test_a_unit_that_listens_can_tidy_up(run):
    messages = []
    with pytest.raises(Cancelled):
        run("do_polite", on_message=messages.append, should_stop=lambda: bool(messages))
    assert (run.root / "outputs" / "stopped.txt").read_text() == "True"


def test_an_interrupt_of_the_parent_leaves_no_process(run, monkeypatch):
    monkeypatch.setattr(process, "GRACE_S", 0.2)
    pids = []

    def interrupt(message):
        pids.extend(message.stage.split())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("do_hang", on_message=interrupt)
    for pid in pids:
        await_death(pid)


def test_when_the_parent_is_killed_the_child_and_its_children_end(tmp_path):
    """A parent that dies without a chance to tidy up: the end of the pipe is enough."""
    (tmp_path / "inputs").mkdir()
    code = (
        "import sys, pathlib\n"
        "from auditor.contracts.jobs import UnitSpec\n"
        "from auditor.runner.process import ProcessRunner\n"
        f"root = pathlib.Path({str(tmp_path)!r})\n"
        "runner = ProcessRunner(handlers='runner_handlers:table', cache=root / 'cache')\n"
        "say = lambda message: print(message.stage, flush=True)\n"
        "unit = UnitSpec(kind='do_hang', key='k', starts_processes=True)\n"
        "runner.run(unit, root, team_id='t', on_message=say, should_stop=lambda: False)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:  # noqa: S603
        pids = parent.stdout.readline().decode().split()
        assert len(pids) == 2
        assert all(is_alive(pid) for pid in pids)
        parent.kill()
    for pid in pids:
        await_death(pid)


@pytest.mark.slow
def test_the_run_context_is_the_plan(run):
    attacks, priors = (AttackSpec(name="a"),), (PriorSpec(name="v"),)
    plan = AuditPlan(name="p", attacks=attacks, priors=priors, seed=9, batch_size=7, autocast_bf16=True)
    (run.root / "inputs").mkdir(parents=True)
    (run.root / "inputs" / "plan.json").write_text(plan.model_dump_json())
    assert run("do_context", device="cpu").value == {"device": "cpu", "seed": 9, "batch_size": 7, "bf16": True}


def test_a_program_that_cannot_be_started_is_a_runner_failure(run, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(RunnerFailure, match="could not be started"):
        run("do_good")
