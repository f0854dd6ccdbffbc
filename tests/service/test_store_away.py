"""A store that is away for a while, as when it restarts: it costs no work that is done."""

from datetime import timedelta

import pytest
from audit_house import RULES

from auditor.contracts.jobs import JobState, UnitState
from auditor.errors import Cancelled, StorageAway, StorageFailure
from auditor.service.copying import Copying
from auditor.testing.ports import SetClock

STEPS = ("get_path", "put_file", "get_bytes")
"""A unit's inputs, its outputs, and a report among them."""


def go_away(house, step, seconds, monkeypatch):
    """From the first time that a worker asks for this, the store does not answer for so long."""
    real, since = getattr(house.store, step), []

    def answer(*arguments):
        since.append(house.clock.now())
        if house.clock.now() - since[0] < timedelta(seconds=seconds):
            raise StorageAway("the store answered 500")
        return real(*arguments)

    monkeypatch.setattr(house.store, step, answer)


@pytest.mark.parametrize("step", STEPS)
def test_a_unit_waits_for_a_store_that_restarts_and_is_computed_once(house, monkeypatch, step):
    started = house.submit()
    ran, compute = [], house.runner.run
    monkeypatch.setattr(
        house.runner, "run", lambda unit, *given, **more: ran.append(unit.key) or compute(unit, *given, **more)
    )
    go_away(house, step, RULES.lease.total_seconds() - 5, monkeypatch)
    house.work()
    view = house.jobs.status(started.job_id)
    assert view.state is JobState.DONE
    assert {unit.attempt for unit in view.units} == {1}
    assert sorted(ran) == sorted(unit.key for unit in view.units)


@pytest.mark.parametrize("step", STEPS[:2])
def test_one_that_stays_away_longer_than_a_lease_gets_the_unit_given_back(house, monkeypatch, step):
    started = house.submit()
    go_away(house, step, RULES.lease.total_seconds() + 10, monkeypatch)
    with pytest.raises(StorageFailure):
        house.executor.execute_next()
    (unit,) = house.jobs.status(started.job_id).units
    assert (unit.state, unit.attempt, unit.error.code) == (UnitState.PENDING, 1, "storage_away")


def test_who_waits_is_heard_of_and_stops_when_asked():
    clock, asked = SetClock(), []

    def away():
        raise StorageAway("no answer")

    with pytest.raises(StorageAway):
        Copying(clock, lambda: asked.append(clock.now()) or False, timedelta(seconds=9))(away)
    assert len(set(asked)) > 3, "polled between all tries, which renews the claim"
    with pytest.raises(Cancelled):
        Copying(clock, lambda: True, timedelta(seconds=9))(away)


def test_whoever_waits_for_an_answer_is_told_at_once():
    clock, tries = SetClock(), []

    def away():
        tries.append(clock.now())
        raise StorageAway("no answer")

    with pytest.raises(StorageAway):
        Copying(clock, lambda: False)(away)
    assert len(tries) == 1
