"""Whose turn it is, what is put back, and jobs that are stopped and go on."""

import os
import re
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from audit_house import ALL_UNITS, RULES, states

from auditor.contracts.jobs import JobState, UnitState
from auditor.errors import Cancelled, StorageFailure
from auditor.service.reaper import Reaped
from auditor.service.scratch import own_folder, unit_folder
from auditor.testing.reports import sample_report


def test_a_worker_takes_what_is_next_until_nothing_waits(house):
    first = house.submit("one")
    house.clock.sleep(1)
    second = house.submit("two")
    while house.executor.execute_next():
        pass
    assert {house.jobs.status(started.job_id).state for started in (first, second)} == {JobState.DONE}
    assert house.runner.ran == ["check", "check", *ALL_UNITS, *ALL_UNITS]


def test_an_interrupted_worker_gives_its_unit_back(house):
    started = house.submit()
    with pytest.raises(Cancelled):
        house.executor.execute_next(interrupted=lambda: True)
    view = house.jobs.status(started.job_id)
    assert (view.state, states(view), view.cancel_requested) == (
        JobState.QUEUED, {"prepare": UnitState.PENDING}, False,
    )  # fmt: skip
    while house.executor.execute_next():
        pass
    assert house.jobs.status(started.job_id).state is JobState.DONE


def test_jobs_that_wait_say_where_and_for_how_long(house):
    done = house.submit("one")
    house.jobs.run_in_place(done.job_id)
    house.clock.sleep(1)
    first = house.submit("two")
    house.clock.sleep(1)
    second = house.submit("three")
    assert house.jobs.status(done.job_id).queue_position is None
    view = house.jobs.status(first.job_id)
    assert (view.queue_position, view.eta_s) == (1, 0.0)
    view = house.jobs.status(second.job_id)
    assert (view.queue_position, view.eta_s) == (2, 1.0), "the runner of these tests takes a second for each unit"
    assert [view.queue_position for view in house.jobs.list()] == [2, 1, None]
    assert [(view.queue_position, view.units) for view in house.jobs.unfinished()] == [(2, ()), (1, ())]
    assert [view.id for view in house.jobs.unfinished(name="TWO")] == [first.job_id]


def test_a_job_is_shown_running_only_under_a_live_lease(house):
    started = house.submit()
    with house.transactions() as tx:
        now = house.clock.now()
        tx.queue.claim_next(worker="w", now=now, lease_until=now + RULES.lease, team_units=0)
        tx.jobs.set_state(started.job_id, JobState.RUNNING, error=None, finished_at=None)
    view = house.jobs.status(started.job_id)
    assert (view.state, view.stalled, view.queue_position) == (JobState.RUNNING, False, None)
    assert house.jobs.unfinished() == (view,), "with its units"
    house.clock.sleep(RULES.lease.total_seconds() + 1)
    for view in (house.jobs.status(started.job_id), *house.jobs.list(), *house.jobs.unfinished()):
        assert (view.state, view.stalled) == (JobState.QUEUED, True)
    house.reaper.reap()
    view = house.jobs.status(started.job_id)
    assert (view.state, view.stalled, view.queue_position) == (JobState.QUEUED, False, 1)
    assert "died" in view.units[0].error.problems[0]


def test_what_a_broker_forgot_is_announced_again_and_only_once(house):
    first, second = house.submit("one"), house.submit("two")
    house.queue.sent.clear()
    assert house.reaper.reap() == Reaped(put_back=0, announced=2)
    assert house.reaper.reap() == Reaped(put_back=0, announced=0)
    house.queue.sent.popleft()
    assert house.reaper.reap() == Reaped(put_back=0, announced=1)
    while house.executor.execute_next():
        pass
    assert {house.jobs.status(job.job_id).state for job in (first, second)} == {JobState.DONE}
    house.queue.sent.clear()
    assert house.reaper.reap() == Reaped(put_back=0, announced=0)


def test_the_reaper_sends_what_could_not_be_sent(house):
    house.queue.down = True
    with pytest.raises(StorageFailure):
        house.submit()
    with pytest.raises(StorageFailure):
        house.reaper.reap()
    house.queue.down = False
    house.reaper.reap()
    assert (len(house.queue.sent), house.transactions.tables.outbox) == (1, {})


def test_a_job_whose_last_unit_ended_after_it_had_failed_is_done_when_resumed(house):
    started = house.submit()
    finish_ = house.handlers["finish"]

    def fail_meanwhile(unit, workspace, session):
        with house.transactions() as tx:
            tx.jobs.set_state(started.job_id, JobState.FAILED, error=None, finished_at=house.clock.now())
        return finish_(unit, workspace, session)

    house.replace("finish", fail_meanwhile)
    assert house.jobs.run_in_place(started.job_id).state is JobState.FAILED
    assert house.jobs.resume(started.job_id).state is JobState.DONE


def test_a_claim_is_renewed_while_files_are_stored(house):
    house.executor.rules = replace(RULES, heartbeat_s=0.0)
    started = house.submit()
    put = house.store.put_file

    def slowly(path):
        house.clock.sleep(0.7 * RULES.lease.total_seconds())
        assert house.reaper.reap().put_back == 0
        return put(path)

    house.store.put_file = slowly
    assert house.executor.execute_next() is True
    (unit, *_) = house.jobs.status(started.job_id).units
    assert (unit.key, unit.state, unit.attempt) == ("prepare", UnitState.DONE, 1)


def test_folders_of_killed_processes_are_swept_and_no_others(house):
    scratch, me = house.tmp_path / "scratch", os.getpid()
    gone = subprocess.Popen(["/bin/true"])
    gone.wait()
    with (
        unit_folder(scratch) as unit,
        own_folder(scratch, "submission") as submission,
        own_folder(scratch, "form") as form,
    ):
        born, _, rest = Path(unit).name.partition(".")[2].partition("@")
        host = rest.rpartition("-")[0]
        other_container = host.replace(re.findall(r"\d+", str(Path("/proc/self/ns/pid").readlink()))[0], "4026531999")
        assert socket.gethostname() in host != other_container
        names = {
            f"unit-{gone.pid}.17@{host}-abc": True,
            f"submission-{gone.pid}.17@{host}-abc": True,
            f"form-{me}.{int(born) - 1}@{host}-abc": True,  # an earlier process of that number
            f"unit-{me}.{born}@{host}-abc": False,
            f"unit-{gone.pid}.17@{other_container}-abc": False,
            "unit-1.17@elsewhere-abc": False,
            "unit-1.17@long-ago-abc": True,
            "mine": False,
        }
        for name in names:
            (scratch / name).mkdir(parents=True)
            (scratch / name / "private.npz").write_bytes(b"private")
        os.utime(scratch / "unit-1.17@long-ago-abc", (0, 0))
        assert house.reaper.reap().swept == 4
        assert {name: not (scratch / name).exists() for name in names} == names
        assert all(Path(folder).exists() for folder in (unit, submission, form))


def test_a_job_resumed_while_a_unit_of_it_still_runs_is_running(house):
    started = house.submit()
    now = house.clock.now()
    with house.transactions() as tx:
        unit = tx.queue.claim_next(worker="w", now=now, lease_until=now + RULES.lease, team_units=0)
        tx.jobs.set_state(started.job_id, JobState.FAILED, error=None, finished_at=now)
    assert unit is not None
    assert house.jobs.resume(started.job_id).state is JobState.RUNNING


def test_an_interrupt_leaves_a_cancelled_job_that_goes_on_where_it_stopped(house):
    started = house.submit()
    attack = house.handlers["attack"]

    def interrupt(unit, workspace, session):
        if unit.key == "attack/ppa/1":
            raise KeyboardInterrupt
        return attack(unit, workspace, session)

    house.replace("attack", interrupt)
    with pytest.raises(KeyboardInterrupt):
        house.jobs.run_in_place(started.job_id)
    view = house.jobs.status(started.job_id)
    assert view.state is JobState.CANCELLED
    assert states(view)["attack/ppa/0"] is UnitState.DONE
    assert states(view)["attack/ppa/1"] is UnitState.PENDING
    house.replace("attack", attack)
    assert house.jobs.resume(started.job_id).state is JobState.QUEUED
    assert house.jobs.run_in_place(started.job_id).state is JobState.DONE
    assert house.runner.ran.count("attack/ppa/0") == 1, "finished units are kept"


def test_cancelling_a_waiting_job_stops_it_at_once_and_its_messages_do_nothing(house):
    started = house.submit()
    assert house.jobs.cancel(started.job_id).state is JobState.CANCELLED
    house.work()
    assert house.runner.ran == ["check"]
    house.jobs.resume(started.job_id)
    house.work()
    assert house.jobs.status(started.job_id).state is JobState.DONE


def test_cancelling_a_running_job_stops_its_unit(house):
    house.executor.rules = replace(RULES, heartbeat_s=0.0)
    started = house.submit()
    real = house.runner.run

    def run(unit, root, *, should_stop, **others):
        assert should_stop() is False
        house.jobs.cancel(started.job_id)
        assert house.jobs.status(started.job_id).state is JobState.RUNNING
        assert should_stop() is True
        return real(unit, root, should_stop=should_stop, **others)

    house.runner.run = run
    with pytest.raises(Cancelled):
        house.executor.execute_unit(house.queue.sent.popleft())
    view = house.jobs.status(started.job_id)
    assert (view.state, view.cancel_requested) == (JobState.CANCELLED, True)
    assert states(view) == {"prepare": UnitState.PENDING}


def test_the_same_work_submitted_while_it_is_being_cancelled_goes_on(house):
    house.executor.rules = replace(RULES, heartbeat_s=0.0)
    started, real = house.submit(), house.runner.run

    def run(unit, root, *, should_stop, **others):
        if unit.kind == "check":
            return real(unit, root, should_stop=should_stop, **others)
        house.jobs.cancel(started.job_id)
        assert should_stop() is True
        again = house.submit()
        assert (again.job_id, again.reused, again.state) == (started.job_id, True, JobState.RUNNING)
        raise Cancelled("the unit was stopped")

    house.runner.run = run
    with pytest.raises(Cancelled):
        house.executor.execute_next()
    view = house.jobs.status(started.job_id)
    assert (view.state, view.cancel_requested, states(view)) == (JobState.QUEUED, False, {"prepare": UnitState.PENDING})
    house.runner.run = real
    while house.executor.execute_next():
        pass
    assert house.jobs.status(started.job_id).state is JobState.DONE


def test_a_job_resumed_while_its_unit_is_being_stopped_is_not_cancelled_by_whoever_ran_it_in_place(house):
    house.executor.rules = replace(RULES, heartbeat_s=0.0)
    started, real = house.submit(), house.runner.run

    def run(_unit, _root, *, should_stop, **_others):
        house.jobs.cancel(started.job_id)
        assert should_stop() is True
        house.jobs.resume(started.job_id)
        raise Cancelled("the unit was stopped")

    house.runner.run = run
    with pytest.raises(Cancelled):
        house.jobs.run_in_place(started.job_id)
    view = house.jobs.status(started.job_id)
    assert (view.state, view.cancel_requested) == (JobState.QUEUED, False)
    house.runner.run = real
    assert house.jobs.run_in_place(started.job_id).state is JobState.DONE


def test_a_heartbeat_survives_a_database_that_restarts(house):
    house.executor.rules = replace(RULES, heartbeat_s=0.0)
    started = house.submit()
    real = house.runner.run

    def run(unit, root, *, should_stop, **others):
        house.transactions.broken = True
        assert should_stop() is False
        house.transactions.broken = False
        return real(unit, root, should_stop=should_stop, **others)

    house.runner.run = run
    assert house.jobs.run_in_place(started.job_id).state is JobState.DONE


def test_resuming_a_failed_job_runs_only_what_failed(house):
    started = house.submit("broken-finish")
    house.jobs.run_in_place(started.job_id)
    house.replace("finish", finish)
    assert house.jobs.resume(started.job_id).state is JobState.QUEUED
    assert house.jobs.run_in_place(started.job_id).state is JobState.DONE
    assert house.runner.ran == ["check", *ALL_UNITS, "finish"]


def finish(unit, workspace, session):
    workspace.output("report.json").write_text(sample_report().model_dump_json())
    return {}


def test_resuming_a_job_whose_pipeline_is_stuck_fails_again_instead_of_waiting_for_ever(house):
    house.replace("prepare", lambda unit, workspace, session: {})
    started = house.submit()
    house.jobs.run_in_place(started.job_id)
    assert house.jobs.resume(started.job_id).state is JobState.FAILED
    assert house.jobs.run_in_place(started.job_id).state is JobState.FAILED


def test_resuming_a_finished_job_leaves_it_alone(house):
    started = house.submit()
    done = house.jobs.run_in_place(started.job_id)
    assert house.jobs.resume(started.job_id) == done
    assert house.jobs.cancel(started.job_id) == done
