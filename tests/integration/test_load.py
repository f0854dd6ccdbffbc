"""`make load`, small, on real PostgreSQL, Redis and API processes."""

import pytest
from pydantic import SecretStr

from auditor.settings import Settings
from benchmarks.load import load

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def test_everything_is_accepted_nothing_lost_and_teams_are_served_alike(tmp_path, postgres_url, broker_url):
    addresses = {"database_url": SecretStr(postgres_url), "broker_url": SecretStr(broker_url)}
    found = load(Settings(home=tmp_path, device="cpu", **addresses), jobs=16, clients=8, workers=2)
    assert found.good, [one.problem for one in found.submitted]
    assert (len(found.accepted), found.made, len(found.claims)) == (16, 16, 16 * 9)
    assert all(one.upload_s > 0 and one.submit_s > 0 for one in found.submitted)
    shares = found.shares()
    assert set(shares) == {"large", "middle", "small"}
    assert max(shares.values()) - min(shares.values()) <= 4, "workers differ in when they read the clock, and teams tie"
    assert found.last_urgent_frac() < 0.2, "a job with priority does not wait for those before it"
