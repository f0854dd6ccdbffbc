"""Checks of submissions share few places: none may hold one for long, and no team all of them."""

from concurrent.futures import ThreadPoolExecutor, wait

import pytest
from api_house import OTHERS, good, installed, problem

from auditor.contracts.people import Role
from auditor.settings import Settings
from auditor.testing.handlers import let_go, wait_for


@pytest.fixture
def settings(tmp_path):
    return Settings(home=tmp_path / "home", device="cpu", check_timeout_s=50)


def submission(house, client, name):
    """The body of one, its file uploaded."""
    return {"model": house.upload(client, b"weights"), "manifest": {"model": {"name": name}}}


def test_slow_checks_of_one_team_leave_a_place_to_the_others(settings):
    with (
        installed(settings) as house,
        house.client(Role.SUBMITTER) as ours,
        house.client(Role.SUBMITTER, OTHERS) as theirs,
        ThreadPoolExecutor(3) as pool,
    ):
        bodies = [submission(house, ours, f"dawdling-{number}") for number in range(3)]
        quick = submission(house, theirs, "quick")
        waiting = [pool.submit(ours.post, "/audits", json=body) for body in bodies]
        try:
            wait_for(lambda: list(settings.home.glob("cache/*/")))
            assert good(theirs.post("/audits", json=quick, timeout=30))["job_id"]
            assert not wait(waiting, timeout=0).done
        finally:
            let_go(settings.home)
        assert all(good(sent.result())["job_id"] for sent in waiting), "they wait for each other, and all are taken"


def test_a_check_that_takes_too_long_is_stopped_and_its_submission_refused(settings):
    with (
        installed(settings.model_copy(update={"check_timeout_s": 1.0})) as house,
        house.client(Role.SUBMITTER) as client,
    ):
        refused = problem(client.post("/audits", json=submission(house, client, "dawdling")), 422, "invalid_input")
        assert "longer than 1 s" in refused["detail"]
        assert "AUDITOR_CHECK_TIMEOUT_S" in refused["remedy"]
        assert good(client.get("/submissions"))["items"] == good(client.get("/jobs"))["items"] == []
