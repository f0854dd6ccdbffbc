"""The use-cases on in-memory ports: every path an audit can take, without a process, a disk or a database."""

import os
import socket
import subprocess
from dataclasses import replace
from datetime import timedelta

import pytest

from auditor.contracts.estimate import PlanEstimate
from auditor.contracts.jobs import JobKind, JobState, UnitState
from auditor.contracts.manifest import Manifest
from auditor.contracts.plan import AuditPlan
from auditor.contracts.policy import Policy
from auditor.errors import Cancelled, InvalidInput, NotFound, RunnerDied, RunnerFailure, StorageFailure, WaitTimeout
from auditor.service.audits import Audits, SubmitRequest
from auditor.service.claims import ClaimRules
from auditor.service.execution import Executor
from auditor.service.jobs import Jobs
from auditor.service.pipeline import AUDIT
from auditor.service.plans import plan_problems
from auditor.service.reaper import Reaped, Reaper
from auditor.testing.database import InMemoryTransactions
from auditor.testing.handlers import PLAN, fast_handlers
from auditor.testing.ports import InMemoryQueue, InMemoryStore, InProcessRunner, SetClock
from auditor.testing.reports import sample_report

RULES = ClaimRules()
ALL_UNITS = [
    "prepare",
    "attack/ppa/0", "attack/ppa/1",
    "attack/mirror-b/0", "attack/mirror-b/1",
    "attack/control/vae/0", "attack/control/vae/1",
    "fisher", "finish",
]  # fmt: skip


class House:
    """Everything wired on in-memory ports."""

    def __init__(self, tmp_path):
        self.tmp_path = tmp_path
        self.model = tmp_path / "model.onnx"
        self.model.write_bytes(b"weights")
        self.handlers = fast_handlers()
        self.store, self.queue, self.clock = InMemoryStore(), InMemoryQueue(), SetClock()
        self.transactions = InMemoryTransactions()
        self.runner = InProcessRunner(self.handlers, tmp_path / "cache")
        self.executor = Executor(
            store=self.store,
            transactions=self.transactions,
            queue=self.queue,
            runner=self.runner,
            clock=self.clock,
            pipelines={JobKind.AUDIT: AUDIT},
            scratch=tmp_path / "scratch",
        )
        self.jobs = Jobs(
            transactions=self.transactions,
            executor=self.executor,
            clock=self.clock,
            pipelines={JobKind.AUDIT: AUDIT},
        )
        self.reaper = Reaper(
            transactions=self.transactions,
            jobs=self.jobs,
            queue=self.queue,
            clock=self.clock,
            scratch=tmp_path / "scratch",
            unit_timeout_s=60,
        )
        self.audits = Audits(
            store=self.store,
            transactions=self.transactions,
            executor=self.executor,
            jobs=self.jobs,
            clock=self.clock,
        )

    def submit(self, name="faces", *, fresh=False, on_event=None):
        manifest = Manifest.model_validate({"model": {"name": name}})
        request = SubmitRequest(self.model, manifest, self.tmp_path, Policy(), fresh)
        return self.audits.submit(request, *([on_event] if on_event else []))

    def work(self):
        """A worker: takes announced units until none is left."""
        while self.queue.sent:
            self.executor.execute_unit(self.queue.sent.popleft())

    def replace(self, kind, handler):
        """Let `handler(unit, workspace, session)` do units of `kind`; the handler that was there comes back with it."""
        before = self.handlers[kind]
        self.handlers[kind] = handler
        return before


@pytest.fixture
def house(tmp_path):
    return House(tmp_path)


def states(view):
    return {unit.key: unit.state for unit in view.units}


# --- submit


def test_a_submission_is_checked_stored_and_gets_its_first_unit(house):
    events = []
    started = house.submit(on_event=events.append)
    assert (started.reused, started.state) == (False, JobState.QUEUED)
    view = house.jobs.status(started.job_id)
    assert states(view) == {"prepare": UnitState.PENDING}
    assert [unit.id for unit in house.transactions.tables.units.values()] == list(house.queue.sent)
    submission = house.audits.submission_of(started.job_id)
    assert (submission.name, submission.target.name) == ("faces", "faces")
    assert house.store.get_bytes(submission.inputs["model"]) == b"weights"
    assert set(submission.inputs) >= {"manifest.json", "plan.json", "policy.json", "target.json", "private.npz"}
    assert [event.unit_key for event in events] == ["check"]


def probing(house, *, left_out=()):
    """A probe that cuts `left_out` from the plan; gives the parameters that it was asked with."""
    asked = []

    def probe(unit, workspace, session):
        asked.append(unit.params)
        workspace.input("policy.json")
        plan = PLAN.model_copy(update={"left_out": left_out})
        value = {"estimate": PlanEstimate(plan=plan).model_dump(mode="json")}
        if unit.params["keep"]:
            house.handlers["check"](unit, workspace, session)
            workspace.output("plan.json").write_text(plan.model_dump_json())
        return value

    house.handlers["probe"] = probe
    return asked


def test_a_dry_run_stores_nothing(house):
    asked = probing(house)
    manifest = Manifest.model_validate({"model": {"name": "faces"}})
    found = house.audits.estimate(SubmitRequest(house.model, manifest, house.tmp_path, Policy()))
    assert found.plan == PLAN
    assert (asked[0]["keep"], asked[0]["budget_s"]) == (False, None)
    assert house.store.blobs == {}
    assert not house.transactions.tables.jobs


def test_a_budget_is_cut_to_by_the_probe_and_said_aloud(house):
    asked, events = probing(house, left_out=("gmi", "fisher")), []
    manifest = Manifest.model_validate({"model": {"name": "faces"}})
    request = SubmitRequest(house.model, manifest, house.tmp_path, Policy(), budget_s=1200)
    started = house.audits.submit(request, events.append)
    assert (asked[0]["keep"], asked[0]["budget_s"]) == (True, 1200)
    stored = house.store.get_bytes(house.audits.submission_of(started.job_id).inputs["plan.json"])
    assert AuditPlan.model_validate_json(stored).left_out == ("gmi", "fisher")
    (said,) = [event.message for event in events if event.message.event == "log"]
    assert said.level == "warning"
    assert "gmi, fisher" in said.message


def test_a_refused_submission_tells_all_problems_and_leaves_nothing(house):
    with pytest.raises(InvalidInput) as caught:
        house.submit("refused")
    assert len(caught.value.problems) == 2
    assert house.transactions.committed == 0
    assert house.store.blobs == {}
    assert not house.queue.sent
    assert list((house.tmp_path / "scratch").iterdir()) == []


def test_a_full_disk_while_submitting_leaves_nothing_in_the_database(house):
    house.store.full = True
    with pytest.raises(StorageFailure):
        house.submit()
    assert house.transactions.tables.jobs == {}
    assert house.transactions.tables.submissions == {}


def test_a_broken_database_while_submitting_announces_nothing(house):
    house.transactions.broken = True
    with pytest.raises(StorageFailure):
        house.submit()
    assert not house.queue.sent


def test_submission_job_and_unit_are_one_transaction(house):
    def lose_the_connection(_work):
        raise StorageFailure("lost the connection")

    house.transactions.before_commit = lose_the_connection
    with pytest.raises(StorageFailure):
        house.submit()
    tables = house.transactions.tables
    assert (tables.submissions, tables.jobs, tables.units, tables.outbox) == ({}, {}, {}, {})


def test_a_model_that_changes_while_it_is_checked_is_refused(house):
    check = house.handlers["check"]

    def change(unit, workspace, session):
        value = check(unit, workspace, session)
        house.model.write_bytes(b"other weights")
        return value

    house.replace("check", change)
    with pytest.raises(InvalidInput, match="changed"):
        house.submit()
    assert house.transactions.tables.jobs == {}


def test_a_check_that_leaves_no_card_is_an_error(house):
    house.replace("check", lambda unit, workspace, session: {})
    with pytest.raises(RunnerFailure, match=r"plan\.json and no target\.json"):
        house.submit()


def test_a_broker_that_is_down_is_told_but_the_job_is_stored_and_announced_later(house):
    house.queue.down = True
    with pytest.raises(StorageFailure, match="broker"):
        house.submit()
    (job,) = house.jobs.list()
    assert job.state is JobState.QUEUED
    house.queue.down = False
    house.jobs.resume(job.id)
    house.work()
    assert house.jobs.status(job.id).state is JobState.DONE


@pytest.mark.parametrize(
    ("attacks", "says"),
    [
        ([{"name": "ppa"}, {"name": "gmi", "label": "ppa"}], "two attacks have the key 'ppa'"),
        ([{"name": "ppa", "label": "control/vae"}], "kept for controls"),
        ([{"name": "ppa", "label": "adaptive-averaged"}], "kept for attacks that know the defense"),
        ([{"name": "ppa", "prior": "gan"}], "wants the prior 'gan'"),
    ],
)
def test_a_plan_whose_parts_do_not_fit_is_explained(attacks, says):
    plan = type(PLAN).model_validate(PLAN.model_dump() | {"attacks": attacks})
    (problem,) = plan_problems(plan)
    assert says in problem


# --- run


def test_a_job_runs_in_place_from_submission_to_report(house):
    events = []
    started = house.submit()
    view = house.jobs.run_in_place(started.job_id, events.append)
    assert view.state is JobState.DONE
    assert view.finished_at is not None
    assert list(states(view)) == ALL_UNITS
    assert set(states(view).values()) == {UnitState.DONE}
    assert house.runner.ran == ["check", *ALL_UNITS]
    report = house.audits.get_report(started.job_id)
    assert view.report_ids == (report.id,)
    entry = house.audits.find_report(report.id[:8])
    assert (entry.name, entry.verdict, entry.level) == ("faces", "fail", "high")
    assert house.audits.list_reports() == (entry,)
    assert (events[-1].unit_key, events[-1].unit_state, events[-1].units_done) == ("finish", UnitState.DONE, 9)


def test_workers_get_every_unit_announced_after_its_commit(house):
    started = house.submit()
    house.work()
    view = house.jobs.status(started.job_id)
    assert view.state is JobState.DONE
    assert house.transactions.tables.outbox == {}
    assert house.jobs.run_in_place(started.job_id) == view, "running a finished job does nothing"


def test_a_second_delivery_is_harmless(house):
    started = house.submit()
    while house.queue.sent:
        unit = house.queue.sent.popleft()
        assert house.executor.execute_unit(unit) is True
        assert house.executor.execute_unit(unit) is False
    assert house.runner.ran == ["check", *ALL_UNITS]
    assert house.jobs.status(started.job_id).state is JobState.DONE


def test_a_delivery_while_the_unit_runs_elsewhere_is_harmless(house):
    started = house.submit()
    prepare = house.handlers["prepare"]

    def deliver_again(unit, workspace, session):
        running = next(iter(house.transactions.tables.units))
        assert house.executor.execute_unit(running) is False
        return prepare(unit, workspace, session)

    house.replace("prepare", deliver_again)
    assert house.jobs.run_in_place(started.job_id).state is JobState.DONE


def test_an_unknown_unit_is_not_found(house):
    with pytest.raises(NotFound):
        house.executor.execute_unit("0" * 32)


def test_scratch_folders_are_gone_afterwards(house):
    house.jobs.run_in_place(house.submit().job_id)
    assert list((house.tmp_path / "scratch").iterdir()) == []


# --- failures


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


# --- crashes


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


def test_when_the_database_goes_away_while_a_unit_runs_its_lease_brings_it_back(house):
    started = house.submit()
    prepare = house.handlers["prepare"]

    def lose_database(unit, workspace, session):
        house.transactions.broken = True
        return prepare(unit, workspace, session)

    house.replace("prepare", lose_database)
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


def test_a_units_own_failure_is_never_tried_again(house):
    started = house.submit("broken-prepare")
    assert house.executor.execute_next() is True
    assert house.executor.execute_next() is False
    (unit,) = house.jobs.status(started.job_id).units
    assert (unit.state, unit.attempt) == (UnitState.FAILED, 1)


def test_a_database_that_restarts_while_a_unit_is_settled_costs_nothing(house):
    started = house.submit()
    prepare = house.handlers["prepare"]

    def lose_database(unit, workspace, session):
        house.transactions.broken = True
        return prepare(unit, workspace, session)

    sleep = house.clock.sleep
    house.replace("prepare", lose_database)
    house.clock.sleep = lambda seconds: [sleep(seconds), setattr(house.transactions, "broken", False)]
    assert house.executor.execute_next() is True
    (unit, *_) = house.jobs.status(started.job_id).units
    assert (unit.key, unit.state, unit.attempt) == ("prepare", UnitState.DONE, 1)


def test_a_worker_whose_claim_was_lost_stops_its_runner(house):
    house.executor.rules = replace(RULES, heartbeat_s=0.0)
    started = house.submit()
    unit_id = house.queue.sent[0]
    seen = []

    def run(unit, root, *, on_message, should_stop):
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


# --- the queue and the reaper


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


def test_a_job_is_shown_running_only_under_a_live_lease(house):
    started = house.submit()
    with house.transactions() as tx:
        now = house.clock.now()
        tx.queue.claim_next(worker="w", now=now, lease_until=now + RULES.lease, team_units=0)
        tx.jobs.set_state(started.job_id, JobState.RUNNING, error=None, finished_at=None)
    view = house.jobs.status(started.job_id)
    assert (view.state, view.stalled, view.queue_position) == (JobState.RUNNING, False, None)
    house.clock.sleep(RULES.lease.total_seconds() + 1)
    for view in (house.jobs.status(started.job_id), *house.jobs.list()):
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
    scratch, host = house.tmp_path / "scratch", socket.gethostname()
    gone = subprocess.Popen(["/bin/true"])
    gone.wait()
    names = {
        f"unit-{gone.pid}@{host}-abc": True,
        f"unit-{os.getpid()}@{host}-abc": False,
        "unit-1@elsewhere-abc": False,
        "unit-1@long-ago-abc": True,
        "mine": False,
    }
    for name in names:
        (scratch / name).mkdir(parents=True)
        (scratch / name / "private.npz").write_bytes(b"private")
    os.utime(scratch / "unit-1@long-ago-abc", (0, 0))
    assert house.reaper.reap().swept == 2
    assert {name: not (scratch / name).exists() for name in names} == names


def test_a_job_resumed_while_a_unit_of_it_still_runs_is_running(house):
    started = house.submit()
    now = house.clock.now()
    with house.transactions() as tx:
        unit = tx.queue.claim_next(worker="w", now=now, lease_until=now + RULES.lease, team_units=0)
        tx.jobs.set_state(started.job_id, JobState.FAILED, error=None, finished_at=now)
    assert unit is not None
    assert house.jobs.resume(started.job_id).state is JobState.RUNNING


# --- stop and go on


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

    def run(unit, root, *, on_message, should_stop):
        assert should_stop() is False
        house.jobs.cancel(started.job_id)
        assert house.jobs.status(started.job_id).state is JobState.RUNNING
        assert should_stop() is True
        return real(unit, root, on_message=on_message, should_stop=should_stop)

    house.runner.run = run
    with pytest.raises(Cancelled):
        house.executor.execute_unit(house.queue.sent.popleft())
    view = house.jobs.status(started.job_id)
    assert (view.state, view.cancel_requested) == (JobState.CANCELLED, True)
    assert states(view) == {"prepare": UnitState.PENDING}


def test_a_heartbeat_survives_a_database_that_restarts(house):
    house.executor.rules = replace(RULES, heartbeat_s=0.0)
    started = house.submit()
    real = house.runner.run

    def run(unit, root, *, on_message, should_stop):
        house.transactions.broken = True
        assert should_stop() is False
        house.transactions.broken = False
        return real(unit, root, on_message=on_message, should_stop=should_stop)

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


# --- the same work twice


def test_the_same_submission_again_gives_the_stored_job(house):
    first = house.submit()
    house.jobs.run_in_place(first.job_id)
    again = house.submit()
    assert (again.job_id, again.reused, again.state) == (first.job_id, True, JobState.DONE)
    assert len(house.transactions.tables.submissions) == 1


def test_fresh_runs_it_again(house):
    first = house.submit()
    house.jobs.run_in_place(first.job_id)
    again = house.submit(fresh=True)
    assert not again.reused
    house.jobs.run_in_place(again.job_id)
    assert house.audits.find_report(house.audits.get_report(first.job_id).id).job_id == again.job_id


@pytest.mark.parametrize("what", ["model", "name"])
def test_another_model_or_name_is_other_work(house, what):
    first = house.submit()
    if what == "model":
        house.model.write_bytes(b"other weights")
    again = house.submit("faces" if what == "model" else "other")
    assert (again.reused, again.job_id != first.job_id) == (False, True)


def test_other_code_is_other_work(house, monkeypatch):
    first = house.submit()
    monkeypatch.setattr("auditor.service.jobs.code_digest", lambda: "other")
    assert house.submit().job_id != first.job_id


def test_submitting_a_cancelled_audit_again_goes_on_with_it(house):
    first = house.submit()
    house.jobs.cancel(first.job_id)
    again = house.submit()
    assert (again.job_id, again.reused, again.state) == (first.job_id, True, JobState.QUEUED)


# --- follow


def test_waiting_tells_changes_and_ends_with_the_job(house):
    started = house.submit()
    events = []
    sleep = house.clock.sleep

    def work_while_waiting(seconds):
        sleep(seconds)
        if house.queue.sent:
            house.executor.execute_unit(house.queue.sent.popleft())

    house.clock.sleep = work_while_waiting
    view = house.jobs.wait(started.job_id, events.append)
    assert view.state is JobState.DONE
    assert [event.unit_key for event in events if event.unit_state is UnitState.DONE] == ALL_UNITS


def test_waiting_can_run_out_and_the_job_goes_on(house):
    started = house.submit()
    with pytest.raises(WaitTimeout, match=started.job_id):
        house.jobs.wait(started.job_id, timeout_s=5)
    assert house.clock.now() - SetClock().now() >= timedelta(seconds=5)
    assert house.jobs.status(started.job_id).state is JobState.QUEUED


def test_lists_are_newest_first(house):
    first = house.submit("one")
    house.clock.sleep(1)
    second = house.submit("two")
    assert [view.id for view in house.jobs.list()] == [second.job_id, first.job_id]
    assert house.jobs.list(1)[0].name == "two"


def test_what_does_not_exist_is_not_found(house):
    for call in (house.jobs.status, house.jobs.resume, house.jobs.cancel, house.audits.get_report):
        with pytest.raises(NotFound):
            call("0123456789")


def test_an_audit_report_is_not_a_repair_report(house):
    started = house.submit()
    house.jobs.run_in_place(started.job_id)
    with pytest.raises(NotFound, match="report of an audit"):
        house.audits.get_repair_report(started.job_id)
    assert house.audits.get_gallery(started.job_id) is None


def test_a_cancel_that_a_unit_outruns_still_stops_the_job(house):
    """The unit ends before it notices: nothing runs then, so the job has stopped, with what follows waiting."""
    prepare = house.replace("prepare", lambda *args: (house.jobs.cancel(job), prepare(*args))[1])
    job = house.submit().job_id
    view = house.jobs.run_in_place(job)
    assert view.state is JobState.CANCELLED
    assert states(view)["prepare"] is UnitState.DONE
    house.jobs.resume(job)
    house.work()
    assert house.jobs.status(job).state is JobState.DONE
