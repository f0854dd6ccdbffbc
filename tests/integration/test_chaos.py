"""A handful of the faults of `make chaos`, on the same real servers, workers and runner processes."""

import pytest

from auditor.testing.servers import postgres_binaries
from benchmarks.chaos import Size, Tally, run
from benchmarks.chaos_faults import (
    FAULTS,
    kill_api_in_submission,
    restart_postgres_in_submission,
)

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.mark.skipif(postgres_binaries() is None, reason="a server that can be restarted needs PostgreSQL's binaries")
def test_nothing_is_lost_and_nothing_doubled(tmp_path):
    faults = (kill_api_in_submission, restart_postgres_in_submission)
    tally = run(tmp_path, dict.fromkeys(faults, 1), seed=1, size=Size(processes=1, at_once=0, takes_ms=0))
    assert tally.good, tally.markdown()
    assert tally.injected.total() == len(faults)
    assert tally.jobs == tally.submissions == 2
    assert tally.redone.total() == 0, "who accepts submissions is not who runs them"


@pytest.mark.parametrize("bad", [{"refused": 1}, {"lost": 1}, {"doubled": 1}, {"left_over": 1}, {"redone_units": 1}])
def test_a_tally_with_a_loss_is_not_good(bad):
    assert Tally().good
    assert not Tally(**bad).good


def test_a_fault_that_costs_two_chunks_is_not_good():
    tally = Tally(redone_units=2)
    tally.redone["kill_worker"] = tally.worst["kill_worker"] = 2
    assert not tally.good


def test_a_full_run_is_at_least_sixty_faults():
    assert sum(FAULTS.values()) >= 60
