"""`make load`, small, on both databases."""

import pytest

from benchmarks.load import drain

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgres", marks=pytest.mark.integration)])
def test_everything_is_accepted_nothing_lost_and_teams_are_served_alike(request, tmp_path, database):
    found = drain(request.getfixturevalue(f"{database}_url"), tmp_path, jobs=16, threads=8, workers=2)
    assert len(set(found.accepted)) == 16
    assert (found.lost, len(found.claims), len(found.submit_s)) == (0, 16 * 9, 16)
    shares = found.shares()
    assert set(shares) == {"large", "middle", "small"}
    assert max(shares.values()) - min(shares.values()) <= 4, "workers differ in when they read the clock, and teams tie"
    assert found.last_urgent_frac() < 0.2, "a job with priority does not wait for those before it"
