"""Units that fail, and whatever can break under them: processes, disks, databases."""

import os
import threading
from dataclasses import replace

import pytest
from audit_house import RULES, states

from auditor.api.background import Background
from auditor.contracts.jobs import JobState, UnitState
from auditor.errors import Cancelled, RunnerDied, StorageFailure
from auditor.service import copying
from auditor.testing.handlers import wait_for


def test_a_failed_attack_does_not_fail_the_job_and_finish_hears_of_it(house):
    view = house.jobs.run_in_place(house.submit("broken-attack").job_id)
    assert view.state is JobState.DONE
    assert states(view)["attack/ppa/0"] is UnitState.FAILED
    assert view.units[1].error.code == "unsupported_model"
    (finish,) = [unit for unit in house.transactions.tables.units.values() if unit.spec.key == "finish"]
    chunk = finish.spec.params["attacks"][0]["chunks"][0]
    assert chunk["error"] == "unsupported_model: this model is broken-attack"


@pytest.mark.parametrize("stage", ["prepare", "finish"])
def test_a_failed_prepare_or_finish_fails_the_job_with_its_reason(house, stage):
    view = house.jobs.run_in_place(house.submit(f"broken-{stage}").job_id)
    assert view.state is JobState.FAILED
    assert view.error.problems == (f"this model is broken-{stage}",)
    assert view.report_ids == ()


def test_a_report_that_breaks_its_contract_is_a_failed_unit_not_a_stored_report(house):
    house.replace("finish", lambda unit, workspace, _s: {"n": workspace.output("report.json").write_text('{"id": 1}')})
    view = house.jobs.run_in_place(house.submit().job_id)
    assert view.state is JobState.FAILED
    assert "breaks its contract" in view.error.problems[0]
    assert house.audits.list_reports() == ()


def test_a_prepare_that_names_no_classes_fails_the_job(house):
    house.replace("prepare", lambda unit, workspace, session: {"attacks": []})
    view = house.jobs.run_in_place(house.submit().job_id)
    assert view.state is JobState.FAILED
    assert "does not say what to attack" in view.error.problems[0]


@pytest.mark.parametrize("name", ["../evil", "a/b"])
def test_a_child_cannot_make_the_parent_read_elsewhere(house, name):
    started = house.submit()
    real = house.runner.run

    def run(unit, root, **options):
        finished = real(unit, root, **options)
        return finished.model_copy(update={"outputs": (name,)})

    house.runner.run = run
    view = house.jobs.run_in_place(started.job_id)
    assert view.state is JobState.FAILED
    assert "plain file name" in view.error.problems[0]


def test_a_child_cannot_leave_a_link(house):
    (house.tmp_path / "private").write_text("not yours")
    link = lambda unit, workspace, _s: {"n": workspace.output("x").symlink_to(house.tmp_path / "private")}  # noqa: E731
    house.replace("prepare", link)
    view = house.jobs.run_in_place(house.submit().job_id)
    assert "left a link" in view.error.problems[0]
    assert b"not yours" not in house.store.blobs.values()


def test_a_child_cannot_put_another_folder_in_place_of_its_own(house):
    (house.tmp_path / "home").mkdir()
    (house.tmp_path / "home" / "signing.key").write_text("not yours")

    def swap(unit, workspace, _session):
        workspace.output("x").parent.rmdir()
        (workspace.root / "outputs").symlink_to(house.tmp_path / "home")
        return {}

    house.replace("prepare", swap)
    view = house.jobs.run_in_place(house.submit().job_id)
    assert "left a link" in view.error.problems[0]
    assert b"not yours" not in house.store.blobs.values()


def test_a_child_leaves_files_and_nothing_that_a_reader_waits_for(house):
    house.replace("prepare", lambda unit, workspace, _session: os.mkfifo(workspace.output("x")) or {})
    view = house.jobs.run_in_place(house.submit().job_id)
    assert "not a file" in view.error.problems[0]


def test_a_crash_between_storing_the_result_and_marking_it_done_is_recovered(house):
    started = house.submit()

    def crash_when_the_first_unit_ends(work):
        if work.units.of_job(started.job_id)[0].state is UnitState.DONE:
            raise StorageFailure("the power went")

    house.transactions.before_commit = crash_when_the_first_unit_ends
    with pytest.raises(StorageFailure):
        house.executor.execute_unit(house.queue.sent[0])
    house.transactions.before_commit = lambda _work: None
    assert states(house.jobs.status(started.job_id)) == {"prepare": UnitState.PENDING}, "given back, not lost"
    view = house.jobs.run_in_place(started.job_id)
    assert view.state is JobState.DONE
    assert house.runner.ran.count("prepare") == 2
    assert set(states(view).values()) == {UnitState.DONE}


def lose_database_in_prepare(house):
    """From its first unit on the database is away; returns the handler that is as it was."""
    prepare = house.handlers["prepare"]

    def lose_database(unit, workspace, session):
        house.transactions.broken = True
        return prepare(unit, workspace, session)

    house.replace("prepare", lose_database)
    return prepare


def test_when_the_database_goes_away_while_a_unit_runs_its_lease_brings_it_back(house):
    started = house.submit()
    prepare = lose_database_in_prepare(house)
    with pytest.raises(StorageFailure):
        house.executor.execute_unit(house.queue.sent.popleft())
    house.transactions.broken = False
    house.replace("prepare", prepare)
    assert states(house.jobs.status(started.job_id)) == {"prepare": UnitState.RUNNING}
    assert house.jobs.status(started.job_id).units[0].stalled is False
    house.clock.sleep(RULES.lease.total_seconds() + 1)
    assert house.jobs.status(started.job_id).units[0].stalled is True, "truthful: nobody works on it"
    assert house.jobs.recover() == 1
    house.work()
    assert house.jobs.status(started.job_id).state is JobState.DONE


def test_a_full_disk_in_place_fails_the_job_with_its_reason_and_resume_goes_on(house):
    started = house.submit()
    house.store.full = True
    with pytest.raises(StorageFailure):
        house.jobs.run_in_place(started.job_id)
    view = house.jobs.status(started.job_id)
    assert (view.state, view.error.code) == (JobState.FAILED, "storage_failure")
    assert states(view) == {"prepare": UnitState.PENDING}
    house.store.full = False
    house.jobs.resume(started.job_id)
    assert house.jobs.run_in_place(started.job_id).state is JobState.DONE


def test_a_broken_database_in_place_is_told_as_such(house):
    started = house.submit()
    house.replace("prepare", lambda *_: setattr(house.transactions, "broken", True) or {})
    with pytest.raises(StorageFailure, match="database"):
        house.jobs.run_in_place(started.job_id)


def test_a_unit_that_keeps_killing_its_worker_is_given_up(house):
    started = house.submit()
    unit_id = house.queue.sent.popleft()
    for attempt in range(RULES.max_attempts):
        with house.transactions() as tx:
            now = house.clock.now()
            assert tx.units.claim(unit_id, worker="w", now=now, lease_until=now + RULES.lease) is not None, attempt
        house.clock.sleep(RULES.lease.total_seconds() + 1)
        assert house.jobs.recover() == 1
    view = house.jobs.status(started.job_id)
    assert view.state is JobState.FAILED
    assert view.error.problems == ("the worker that ran unit 'prepare' died; tried 3 times",)
    house.jobs.resume(started.job_id)
    assert house.jobs.run_in_place(started.job_id).state is JobState.DONE, "a person may still try again"


def test_a_claim_that_was_lost_changes_nothing(house):
    """A worker that slept through its lease comes back with a result after another one took the unit."""
    started = house.submit()
    unit_id = house.queue.sent.popleft()
    prepare = house.handlers["prepare"]

    def sleep_through(unit, workspace, session):
        house.clock.sleep(RULES.lease.total_seconds() + 1)
        house.jobs.recover()
        with house.transactions() as tx:
            assert tx.units.claim(
                unit_id, worker="other", now=house.clock.now(), lease_until=house.clock.now() + RULES.lease
            )
        return prepare(unit, workspace, session)

    house.replace("prepare", sleep_through)
    house.executor.execute_unit(unit_id)
    (unit,) = house.jobs.status(started.job_id).units
    assert (unit.state, unit.worker, unit.attempt) == (UnitState.RUNNING, "other", 2)


def test_followers_are_announced_even_if_the_first_delivery_died_before_it_could(house):
    started = house.submit()
    first = house.queue.sent.popleft()
    house.queue.down = True
    with pytest.raises(StorageFailure):
        house.executor.execute_unit(first)
    house.queue.down = False
    assert not house.queue.sent
    assert house.executor.execute_unit(first) is False
    house.work()
    assert house.jobs.status(started.job_id).state is JobState.DONE


def test_a_runner_that_dies_is_tried_again_and_its_reason_shown(house):
    started = house.submit()
    prepare, tries = house.handlers["prepare"], []

    def die_once(unit, workspace, session):
        tries.append(unit.key)
        if len(tries) == 1:
            raise RunnerDied("the runner process was killed by SIGKILL")
        return prepare(unit, workspace, session)

    house.replace("prepare", die_once)
    assert house.executor.execute_next() is True
    (unit,) = house.jobs.status(started.job_id).units
    assert (unit.state, unit.attempt, unit.error.problems) == (
        UnitState.PENDING, 1, ("the runner process was killed by SIGKILL",),
    )  # fmt: skip
    assert house.executor.execute_next() is False, "not before its time"
    house.clock.sleep(RULES.retry_delay_s)
    assert house.executor.execute_next() is True
    (unit, *_) = house.jobs.status(started.job_id).units
    assert (unit.state, unit.attempt, unit.error) == (UnitState.DONE, 2, None)


def test_a_store_that_stays_full_is_tried_three_times_ever_later_and_then_told(house):
    started = house.submit()
    house.store.full = True
    waits = []
    for _ in range(RULES.max_attempts):
        while house.transactions.tables.jobs[started.job_id].state is not JobState.FAILED:
            try:
                assert house.executor.execute_next() is False
                house.clock.sleep(1)
                waits.append(1)
            except StorageFailure:
                waits.append(0)
                break
    view = house.jobs.status(started.job_id)
    assert (view.state, view.error.code, view.error.problems[1]) == (
        JobState.FAILED,
        "storage_failure",
        "tried 3 times",
    )
    assert waits == [0, *[1] * 5, 0, *[1] * 10, 0]
    assert house.executor.execute_next() is False


@pytest.mark.parametrize("error", [StorageFailure("the bucket answered 503"), ValueError("a defect")])
def test_a_server_without_workers_logs_of_which_job_a_unit_was_stopped_from_outside(house, caplog, error):
    started = house.submit()

    def fail(*_args, **_options):
        raise error

    house.runner.run = fail
    background = Background(house.jobs, house.executor)
    background.start()
    wait_for(lambda: str(error) in caplog.text)
    background.stop()
    assert f"unit 'prepare' of job {started.job_id}" in caplog.text


def test_a_units_own_failure_is_never_tried_again(house):
    started = house.submit("broken-prepare")
    assert house.executor.execute_next() is True
    assert house.executor.execute_next() is False
    (unit,) = house.jobs.status(started.job_id).units
    assert (unit.state, unit.attempt) == (UnitState.FAILED, 1)


def test_a_database_that_restarts_while_a_unit_is_settled_costs_nothing(house):
    started = house.submit()
    lose_database_in_prepare(house)
    sleep = house.clock.sleep
    house.clock.sleep = lambda seconds: [sleep(seconds), setattr(house.transactions, "broken", False)]
    assert house.executor.execute_next() is True
    (unit, *_) = house.jobs.status(started.job_id).units
    assert (unit.key, unit.state, unit.attempt) == ("prepare", UnitState.DONE, 1)


def test_a_worker_whose_claim_was_lost_stops_its_runner(house):
    house.executor.rules = replace(RULES, heartbeat_s=0.0)
    started = house.submit()
    unit_id = house.queue.sent[0]
    seen = []

    def run(unit, root, *, should_stop, **_others):
        seen.append(should_stop())
        house.clock.sleep(RULES.lease.total_seconds() + 1)
        house.jobs.recover()
        with house.transactions() as tx:
            assert tx.units.claim(unit_id, worker="other", now=house.clock.now(), lease_until=house.clock.now())
        seen.append(should_stop())
        raise Cancelled("stopped")

    house.runner.run = run
    assert house.executor.execute_next() is True
    assert seen == [False, True]
    (unit,) = house.jobs.status(started.job_id).units
    assert (unit.state, unit.worker, unit.attempt) == (UnitState.RUNNING, "other", 2)


def test_a_claim_is_renewed_while_one_file_takes_longer_than_a_lease(house, monkeypatch):
    monkeypatch.setattr(copying, "_POLL_S", 0.001)
    house.executor.rules = replace(RULES, heartbeat_s=0.0)
    started = house.submit()
    put, ends = house.store.put_file, threading.Event()

    def lease():
        return house.transactions.tables.units[house.queue.sent[0]].lease_until

    def put_slowly(path):
        for _ in range(3):  # each as long as two thirds of a lease
            before = lease()
            house.clock.sleep(RULES.lease.total_seconds() * 2 / 3)
            wait_for(lambda before=before: lease() > before)
            house.jobs.recover()
        ends.set()
        house.store.put_file = put
        return put(path)

    house.store.put_file = put_slowly
    assert house.executor.execute_next() is True
    assert ends.is_set()
    (unit, *_) = house.jobs.status(started.job_id).units
    assert (unit.key, unit.state, unit.attempt) == ("prepare", UnitState.DONE, 1)
