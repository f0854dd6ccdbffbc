"""The use-cases on in-memory ports: what is submitted, runs to its report, and is found again."""

from dataclasses import replace
from datetime import timedelta

import pytest
from audit_house import ALL_UNITS, CHECK_TIMEOUT_S, states

from auditor.contracts.estimate import PlanEstimate
from auditor.contracts.jobs import JobState, UnitState
from auditor.contracts.manifest import Manifest
from auditor.contracts.plan import AuditPlan
from auditor.contracts.policy import Policy
from auditor.errors import InvalidInput, NotFound, RunnerFailure, StorageFailure, WaitTimeout
from auditor.service.audits import SubmitRequest
from auditor.service.plans import plan_problems
from auditor.testing.handlers import PLAN
from auditor.testing.ports import SetClock


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


def test_a_check_that_takes_too_long_is_stopped_and_leaves_nothing(house):
    def dawdle(unit, workspace, session):
        house.clock.sleep(CHECK_TIMEOUT_S + 1)
        return check(unit, workspace, session)

    check = house.replace("check", dawdle)
    with pytest.raises(InvalidInput, match=r"longer than 120 s \(AUDITOR_CHECK_TIMEOUT_S\)") as caught:
        house.submit()
    assert "AUDITOR_CHECK_TIMEOUT_S" in caught.value.remedy
    assert not caught.value.retryable
    assert (house.transactions.committed, list(house.queue.sent)) == (0, [])


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


def test_the_same_submission_again_gives_the_stored_job(house):
    first = house.submit()
    house.jobs.run_in_place(first.job_id)
    again = house.submit()
    assert (again.job_id, again.reused, again.state) == (first.job_id, True, JobState.DONE)
    assert (first.told, again.told) == ("", "stored already; --fresh runs it again")
    assert "goes on" in replace(again, state=JobState.QUEUED).told
    assert len(house.transactions.tables.submissions) == 1


def test_fresh_runs_it_again(house):
    first = house.submit()
    house.jobs.run_in_place(first.job_id)
    again = house.submit(fresh=True)
    assert not again.reused
    house.jobs.run_in_place(again.job_id)
    assert house.audits.find_report(house.audits.get_report(first.job_id).id).job_id == again.job_id


def test_a_request_that_is_made_again_finds_the_audit_it_made_and_is_not_checked_again(house):
    manifest = Manifest.model_validate({"model": {"name": "faces"}})
    request = SubmitRequest(house.model, manifest, house.tmp_path, Policy(), fresh=True, request_id="a" * 32)
    first, again = (house.audits.submit(request) for _ in range(2))
    assert first.job_id == again.job_id == "a" * 32
    assert not again.reused, "it is answered as it was"
    assert house.runner.ran == ["check"]
    assert len(house.jobs.list()) == 1


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


def test_who_asks_again_with_a_higher_priority_is_served_sooner(house):
    def ask(priority):
        manifest = Manifest.model_validate({"model": {"name": "faces"}})
        request = SubmitRequest(house.model, manifest, house.tmp_path, Policy(), priority=priority)
        return house.audits.submit(request)

    first = ask(2)
    for priority, kept in ((7, 7), (3, 7)):
        assert ask(priority).job_id == first.job_id
        assert house.transactions.tables.jobs[first.job_id].priority == kept
    house.work()
    ask(9)
    assert house.transactions.tables.jobs[first.job_id].priority == 7
