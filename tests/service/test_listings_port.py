"""What lists ask for: one contract for jobs, reports and baselines, kept in memory, on SQLite and on PostgreSQL."""

from dataclasses import replace
from datetime import timedelta

import pytest
from test_database_port import JOB, LATER, NOW, SUBMISSION, report, transactions  # noqa: F401 - a fixture

from auditor.contracts.jobs import JobKind, JobState
from auditor.service.accounts import Baseline
from auditor.service.records import LOCAL_TEAM

OTHERS = "others"


def job_id(number):
    return f"{number:032x}"


def add_job(tx, number, **changes):
    tx.jobs.add(replace(JOB, id=job_id(number), created_at=NOW + timedelta(seconds=number), **changes))


def numbers(rows):
    return [int(getattr(row, "job_id", None) or row.id, 16) for row in rows]


@pytest.fixture
def database(transactions):  # noqa: F811
    with transactions() as tx:
        tx.submissions.add(SUBMISSION)
    return transactions


@pytest.fixture
def reported(database):
    """Two audits of one model, three of another, a quick one and a repair, one without a name, and another team's."""
    names = {1: "rare", 2: "rare", 3: "common", 4: "common", 5: "common", 6: "", 7: "rare"}
    with database() as tx:
        for number, name in names.items():
            add_job(tx, number, team_id=OTHERS if number == 7 else LOCAL_TEAM, state=JobState.DONE)
            tx.reports.add(replace(report(number, job_id=job_id(number)), name=name))
        tx.reports.add(replace(report(9, job_id=job_id(2), key="k0/finish"), name="rare"))
        tx.reports.add(replace(report(10, job_id=job_id(2), key="report"), name="rare", kind=JobKind.REPAIR))
    return database


def test_jobs_are_listed_by_what_their_name_holds_and_by_their_state(database):
    with database() as tx:
        add_job(tx, 1, name="Badge_reader", state=JobState.DONE)
        add_job(tx, 2, name="badge-reader", state=JobState.FAILED)
        add_job(tx, 3, name="door", state=JobState.DONE)
        add_job(tx, 4, name="badge%", kind=JobKind.REPAIR)
    with database() as tx:
        assert numbers(tx.jobs.page(9, name="BADGE")) == [4, 2, 1]
        assert numbers(tx.jobs.page(9, name="e_r")) == [1], "a character as it is, no pattern"
        assert numbers(tx.jobs.page(9, name="%")) == [4]
        assert numbers(tx.jobs.page(9, name="\\")) == numbers(tx.jobs.page(9, name="/")) == []
        assert numbers(tx.jobs.page(9, states=[JobState.DONE, JobState.FAILED])) == [3, 2, 1]
        assert numbers(tx.jobs.page(9, states=[])) == []
        assert numbers(tx.jobs.page(1, name="badge", states=[JobState.DONE, JobState.FAILED])) == [2]
        assert numbers(tx.jobs.page(9, (NOW + timedelta(seconds=2), job_id(2)), name="badge")) == [1]
        assert numbers(tx.jobs.page(9, name="badge", kind=JobKind.REPAIR)) == [4]


def test_unfinished_jobs_are_listed_however_many_ended_since(database):
    with database() as tx:
        add_job(tx, 1, name="first", state=JobState.RUNNING)
        add_job(tx, 2, name="second", kind=JobKind.REPAIR)
        add_job(tx, 3, team_id=OTHERS)
        for number in range(4, 30):
            add_job(tx, number, state=list(JobState)[2 + number % 3], finished_at=LATER)
    with database() as tx:
        assert numbers(tx.jobs.unfinished()) == [3, 2, 1]
        assert numbers(tx.jobs.unfinished(name="FIRST")) == [1]
        assert numbers(tx.jobs.unfinished(kind=JobKind.REPAIR)) == [2]
    with database.of_team(LOCAL_TEAM)() as tx:
        assert numbers(tx.jobs.unfinished()) == [2, 1]


def test_reports_are_listed_by_model_kind_and_unit(reported):
    with reported.of_team(LOCAL_TEAM)() as tx:
        assert numbers(tx.reports.page(9, name="rare", kind=JobKind.AUDIT, keys={"finish"})) == [2, 1]
        assert numbers(tx.reports.page(1, name="rare", keys=["finish"])) == [2]
        assert numbers(tx.reports.page(9, (NOW + timedelta(seconds=2), job_id(2)), name="rare")) == [1]
        assert [row.unit_key for row in tx.reports.page(9, name="rare")] == ["report", "k0/finish", "finish", "finish"]
        assert [row.unit_key for row in tx.reports.page(9, kind=JobKind.REPAIR)] == ["report"]
        assert list(tx.reports.page(9, name="Rare")) == list(tx.reports.page(9, keys=[])) == []
        assert len(tx.reports.page(99)) == 8


def test_units_of_jobs_that_are_not_done_are_left_out(reported):
    with reported.of_team(LOCAL_TEAM)() as tx:
        for number, state in ((20, JobState.RUNNING), (21, JobState.FAILED), (22, JobState.CANCELLED)):
            add_job(tx, number, state=state)
            tx.reports.add(replace(report(number, job_id=job_id(number)), name="rare"))
        assert numbers(tx.reports.page(9, name="rare", keys=["finish"])) == [2, 1]
        rows = tx.reports.by_name(9, kind=JobKind.AUDIT, keys=["finish"])
    assert [(row.newest.name, row.count) for row in rows] == [("common", 3), ("rare", 2)]


def test_models_are_listed_with_their_newest_report_and_how_many_there_are(reported):
    def found(seen, limit=9, after=None):
        with seen() as tx:
            rows = tx.reports.by_name(limit, after, kind=JobKind.AUDIT, keys=["finish"])
        return [(row.newest.name, int(row.newest.job_id, 16), row.count) for row in rows]

    own = reported.of_team(LOCAL_TEAM)
    assert found(own) == [("common", 5, 3), ("rare", 2, 2)]
    assert found(own, limit=1) == [("common", 5, 3)]
    assert found(own, after=(NOW + timedelta(seconds=5), job_id(5))) == [("rare", 2, 2)]
    assert found(reported) == [("rare", 7, 3), ("common", 5, 3)]
    with reported() as tx:
        assert list(tx.reports.by_name(9, kind=JobKind.REPAIR, keys=["finish"])) == []


def test_the_reports_of_many_jobs_are_read_at_once(reported):
    asked = [job_id(number) for number in (2, 3, 8)]
    unknown = [job_id(number) for number in range(100, 1200)]
    with reported.of_team(LOCAL_TEAM)() as tx:
        found = tx.reports.of_jobs([*asked, *unknown, job_id(7)])
        assert {key: list(rows) for key, rows in found.items() if rows} == {
            key: list(tx.reports.of_job(key)) for key in asked[:2]
        }
        assert found[job_id(7)] == [], "another team's"
        assert set(found) == {*asked, *unknown, job_id(7)}
        assert dict(tx.reports.of_jobs([])) == {}


def test_rows_are_found_by_any_of_several_values(reported):
    with reported() as tx:
        for number, name in enumerate(["rare", "common", "third"]):
            tx.baselines.add(Baseline(job_id(number), NOW, LOCAL_TEAM, name, "e" * 64, job_id(1), "ann"))
        assert {row.name for row in tx.baselines.page(9, name=frozenset({"rare", "third", "x"}))} == {"rare", "third"}
        assert list(tx.baselines.page(9, name=frozenset())) == []
