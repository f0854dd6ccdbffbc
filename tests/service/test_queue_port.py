"""Whose turn it is: one contract for the queue port, kept in memory, on SQLite and on PostgreSQL."""

import random
import threading
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest
from test_database_port import FAILED, JOB, LATER, NOW, SUBMISSION, report, transactions, unit  # noqa: F401 - a fixture

from auditor.contracts.jobs import JobState, UnitResult, UnitSpec
from auditor.service.places import claim_order, places


@pytest.fixture
def database(transactions):  # noqa: F811
    with transactions() as tx:
        tx.submissions.add(SUBMISSION)
    return transactions


def job_id(number):
    return f"{number:032x}"


def add(tx, number, *, team="local", priority=0, age=0, units=1, **changes):
    """A job with units `100 * number + position`; a higher age is older."""
    made = NOW - timedelta(seconds=age)
    tx.jobs.add(replace(JOB, id=job_id(number), team_id=team, priority=priority, created_at=made, **changes))
    new = [replace(unit(100 * number + position), job_id=job_id(number)) for position in range(units)]
    tx.units.add([replace(made, position=position) for position, made in enumerate(new)])


def take(tx, *, now=NOW, until=LATER, share=0):
    found = tx.queue.claim_next(worker="w", now=now, lease_until=until, team_units=share)
    return None if found is None else int(found.id, 16)


def drain(database, **options):
    """Take all that may run, a millisecond apart."""
    taken, now = [], options.pop("now", NOW)
    with database() as tx:
        while (number := take(tx, now=now, **options)) is not None:
            taken.append(number)
            now += timedelta(milliseconds=1)
    return taken


def test_an_empty_queue_gives_nothing(database):
    assert drain(database) == []


def test_within_a_team_the_oldest_job_goes_first_and_its_units_in_order(database):
    with database() as tx:
        add(tx, 1, age=1, units=2)
        add(tx, 2, age=5, units=2)
    assert drain(database) == [200, 201, 100, 101]


def test_a_higher_priority_goes_before_everything(database):
    with database() as tx:
        add(tx, 1, age=9)
        add(tx, 2, team="other", age=9)
        add(tx, 3, priority=1, units=2)
        add(tx, 4, priority=-1, age=99)
    assert drain(database)[:2] == [300, 301]


def test_teams_take_turns_however_much_one_of_them_submits(database):
    with database() as tx:
        add(tx, 1, team="many", age=9, units=4)
        add(tx, 2, team="few", age=1, units=2)
    assert drain(database) == [100, 200, 101, 201, 102, 103]


def test_teams_take_turns_with_a_single_worker_too(database):
    """Nothing runs when it asks, so how many units run tells nothing: who was served longest ago does."""
    with database() as tx:
        add(tx, 1, team="many", age=9, units=3)
        add(tx, 2, team="many", age=8, units=3)
        add(tx, 3, team="few", age=1, units=2)
    taken = []
    for second in range(8):
        now = NOW + timedelta(seconds=second)
        with database() as tx:
            taken.append(take(tx, now=now, until=now + timedelta(minutes=1)))
            tx.units.complete(tx.units.get(job_id(taken[-1])), UnitResult())
    assert taken == [100, 300, 101, 301, 102, 200, 201, 202]


def test_a_team_whose_job_has_just_ended_was_served(database):
    with database() as tx:
        ended, forgotten = NOW - timedelta(minutes=59), NOW - timedelta(minutes=61)
        add(tx, 1, team="a", state=JobState.RUNNING)
        add(tx, 2, team="b", state=JobState.RUNNING)
        for number, when in ((100, ended), (200, forgotten)):
            held = tx.units.claim(job_id(number), worker="w", now=when, lease_until=when)
            assert tx.units.complete(held, UnitResult())
            tx.jobs.set_state(held.job_id, JobState.DONE, error=None, finished_at=when)
        assert tx.queue.served(NOW) == {"a": ended}
        add(tx, 3, team="a", age=9)
        add(tx, 4, team="b", age=1)
    assert drain(database) == [400, 300]


def test_a_team_at_its_limit_waits_for_its_own_units_only(database):
    with database() as tx:
        add(tx, 1, team="many", age=9, priority=5, units=4)
        add(tx, 2, team="few", units=1)
    assert drain(database, share=2) == [100, 101, 200]
    with database() as tx:
        tx.units.complete(tx.units.get(job_id(100)), UnitResult())
    assert drain(database, share=2) == [102]


def test_a_dead_workers_lease_counts_for_nobody(database):
    with database() as tx:
        add(tx, 1, units=2)
    assert drain(database, share=1) == [100]
    assert drain(database, share=1, now=LATER + timedelta(seconds=1), until=LATER + timedelta(1)) == [101]


@pytest.mark.parametrize("state", [JobState.DONE, JobState.FAILED, JobState.CANCELLED])
def test_units_of_a_job_that_ended_are_left(database, state):
    with database() as tx:
        add(tx, 1, state=state)
        add(tx, 2, cancel_requested=True)
        add(tx, 3)
    with database() as tx:
        assert [queued.job_id for queued in tx.queue.waiting(NOW)] == [job_id(3)]
    assert drain(database) == [300]


def test_a_unit_given_back_for_later_waits_and_keeps_its_reason(database):
    with database() as tx:
        add(tx, 1)
        assert take(tx) == 100
        held = tx.units.get(job_id(100))
        assert tx.units.release(held, error=FAILED, not_before=LATER)
    with database() as tx:
        assert take(tx) is None
        assert list(tx.queue.waiting(NOW)) == []
        assert tx.units.get(held.id).error == FAILED
        assert take(tx, now=LATER, until=LATER + timedelta(1)) == 100
        again = tx.units.get(held.id)
        assert (again.attempt, again.error, again.worker) == (2, None, "w")


def test_many_workers_at_once_take_every_unit_once_and_keep_to_the_limit(database):
    with database() as tx:
        for number, team in enumerate(("a", "a", "b", "c"), 1):
            add(tx, number, team=team, units=3)
    got, most, barrier = [], Counter(), threading.Barrier(6)

    def work():
        barrier.wait()
        for _ in range(4):
            with database() as tx:
                number = take(tx, share=2)
                shares = Counter(queued.team_id for queued in tx.queue.running(NOW))
            most.update(dict.fromkeys(shares, 0))
            for team, held in shares.items():
                most[team] = max(most[team], held)
            if number is not None:
                got.append(number)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == len(set(got)) == 6, "two of each of three teams"
    assert most == {"a": 2, "b": 2, "c": 2}


@pytest.mark.parametrize("seed", range(6))
def test_the_order_told_is_the_order_taken(database, seed):
    """The in-memory queue takes the first of `claim_order`; SQL has a rule of its own, and both must agree."""
    chance = random.Random(seed)  # noqa: S311
    with database() as tx:
        for number in range(1, 10):
            team, age = chance.choice("abc"), chance.randrange(4)
            add(tx, number, team=team, priority=chance.randrange(3), age=age, units=chance.randrange(1, 4))
        for turn in range(3):
            take(tx, now=NOW - timedelta(minutes=3 - turn))
        told = [int(queued.unit_id, 16) for queued in _order(tx)]
    assert drain(database) == told
    assert len(told) > 5


def _order(tx):
    return claim_order(tx.queue.waiting(NOW), tx.queue.running(NOW), tx.queue.served(NOW))


def finish(tx, number, kind, seconds):
    """One more unit of job 1, done."""
    made = replace(unit(number), job_id=job_id(1), spec=UnitSpec(kind=kind, key=f"{kind}/{number}"))
    tx.units.add([made])
    held = tx.units.claim(made.id, worker="w", now=NOW, lease_until=LATER)
    assert tx.units.complete(held, UnitResult(seconds=seconds))


def test_typical_seconds_are_medians_by_kind(database):
    with database() as tx:
        assert tx.queue.typical_seconds() == {}
        add(tx, 1)
        for number, (kind, seconds) in enumerate([("attack", 1.0), ("attack", 3.5), ("attack", 99.0), ("finish", 2.0)]):
            finish(tx, number, kind, seconds)
    with database() as tx:
        assert tx.queue.typical_seconds() == {"attack": 3.5, "finish": 2.0}


def test_places_follow_the_order_and_what_is_ahead(database):
    with database() as tx:
        add(tx, 1, team="a", age=9, units=1)
        finish(tx, 0, "attack", 10.0)
        assert take(tx) == 100
        add(tx, 2, team="a", age=8, units=3)
        add(tx, 3, team="b", age=1, units=1)
    with database() as tx:
        found = places(tx.queue.waiting(NOW), tx.queue.running(NOW), tx.queue.served(NOW), tx.queue.typical_seconds())
        blind = places(tx.queue.waiting(NOW), tx.queue.running(NOW), tx.queue.served(NOW), {})
    assert {key: (place.position, place.eta_s) for key, place in found.items()} == {
        job_id(3): (1, 5.0),
        job_id(2): (2, 15.0),
    }
    assert {place.eta_s for place in blind.values()} == {None}


def test_statistics_count_everything(database):
    with database() as tx:
        add(tx, 1, age=60, units=2, state=JobState.RUNNING)
        add(tx, 2, age=30, team="other", priority=-1, state=JobState.FAILED, units=0)
        finish(tx, 0, "finish", 2.5)
        assert take(tx, until=NOW - timedelta(seconds=1)) == 100
        tx.outbox.add([job_id(101)])
        tx.reports.add(report(1, job_id=job_id(1)))
        tx.reports.add(replace(report(2, job_id=job_id(2)), verdict=None))
        tx.reports.add(replace(report(3, job_id=job_id(1), key="k2/finish"), verdict="pass"))
    with database() as tx:
        found = tx.queue.statistics(NOW)
    assert found.jobs == {("audit", "running", "local"): 1, ("audit", "failed", "other"): 1}
    assert found.units == {("finish", "done"): 1, ("attack", "running"): 1, ("attack", "pending"): 1}
    assert (found.jobs_running, found.units_stalled, found.units_redone, found.outbox) == (0, 1, 0, 1)
    assert found.unit_seconds == {"finish": 2.5}
    assert found.oldest_waiting == NOW - timedelta(seconds=60)
    assert found.reports == {("audit", "fail"): 1, ("audit", ""): 1}
