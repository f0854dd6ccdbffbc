"""The tables of states, walked edge by edge on every implementation of the database."""

from dataclasses import replace
from itertools import product

import pytest
from test_database_port import FAILED, JOB, NOW, SUBMISSION, claim, transactions, unit  # noqa: F401 - a fixture

from auditor.contracts.jobs import JobState, UnitResult, UnitState
from auditor.errors import IllegalMove
from auditor.service.states import JOB_MOVES, LIVE, TERMINAL, UNIT_MOVES

JOB_PATHS = {
    JobState.QUEUED: (),
    JobState.RUNNING: (JobState.RUNNING,),
    JobState.DONE: (JobState.RUNNING, JobState.DONE),
    JobState.FAILED: (JobState.FAILED,),
    JobState.CANCELLED: (JobState.CANCELLED,),
}
"""How a new job gets to each state."""


def test_the_tables_cover_every_state_and_nothing_leaves_done():
    assert set(JOB_MOVES) == set(JobState) == set(JOB_PATHS)
    assert set(UNIT_MOVES) == set(UnitState)
    assert JOB_MOVES[JobState.DONE] == UNIT_MOVES[UnitState.DONE] == frozenset()
    assert frozenset(JobState) == TERMINAL | LIVE
    assert not TERMINAL & LIVE


def test_every_job_move_is_made_or_refused_as_the_table_says(transactions):  # noqa: F811
    with transactions() as tx:
        tx.submissions.add(SUBMISSION)
    for number, (before, after) in enumerate(product(JobState, JobState)):
        job = replace(JOB, id=f"{number:032x}")
        with transactions() as tx:
            tx.jobs.add(job)
            for state in JOB_PATHS[before]:
                tx.jobs.set_state(job.id, state, error=None, finished_at=None)
        if after in JOB_MOVES[before]:
            with transactions() as tx:
                tx.jobs.set_state(job.id, after, error=None, finished_at=NOW)
                assert tx.jobs.get(job.id).state is after
        else:
            with pytest.raises(IllegalMove, match=f"is {before} and cannot become {after}"), transactions() as tx:
                tx.jobs.set_state(job.id, after, error=None, finished_at=NOW)
            with transactions() as tx:
                assert tx.jobs.get(job.id).state is before


def test_every_unit_move_is_made_or_refused_as_the_table_says(transactions):  # noqa: F811
    moves = {
        UnitState.PENDING: lambda tx, held: tx.units.release(held),
        UnitState.RUNNING: lambda tx, held: claim(tx, held.position) is not None,
        UnitState.DONE: lambda tx, held: tx.units.complete(held, UnitResult()),
        UnitState.FAILED: lambda tx, held: tx.units.fail(held, FAILED),
    }
    with transactions() as tx:
        tx.submissions.add(SUBMISSION)
        tx.jobs.add(JOB)
    for number, (before, after) in enumerate(product(UnitState, UnitState)):
        with transactions() as tx:
            tx.units.add([unit(number)])
            held = unit(number)
            if before is not UnitState.PENDING:
                held = claim(tx, number)
            if before in (UnitState.DONE, UnitState.FAILED):
                assert moves[before](tx, held)
            assert moves[after](tx, held) is (after in UNIT_MOVES[before]), (before, after)
            assert tx.units.get(held.id).state is (after if after in UNIT_MOVES[before] else before)
