"""Policies that a team keeps: whose name they hold, what `--fail-on` makes of them, and those of another version."""

import secrets

import pytest
from api_house import good, problem
from pages_house import Visitor, told

from auditor.contracts.people import Role
from auditor.contracts.policy import Policy, RiskLevel
from auditor.service.accounts import NamedPolicy
from auditor.service.records import LOCAL_TEAM
from auditor.testing.handlers import hold, let_go, wait_for


@pytest.fixture
def client(house):
    with house.client(Role.SUBMITTER) as client:
        yield client


@pytest.fixture
def reviewer(house):
    with house.client(Role.REVIEWER) as client:
        yield client


@pytest.fixture
def kept(reviewer):
    """A policy of the team, which fails on low."""
    policy = Policy(name=f"strict-{secrets.token_hex(4)}", fail_on=RiskLevel.LOW)
    good(reviewer.put(f"/policies/{policy.name}", json=policy.model_dump(mode="json")))
    return policy


def body(house, client, policy, name="by-policy"):
    sent = policy if isinstance(policy, dict) else policy.model_dump(mode="json")
    return {"model": house.upload(client, b"weights"), "manifest": {"model": {"name": name}}, "policy": sent}


def test_what_fail_on_makes_of_the_teams_policy_is_taken_and_nothing_else_of_that_name(house, client, kept):
    looser = kept.failing_on(RiskLevel.CRITICAL)
    job = good(client.post("/audits", json=body(house, client, looser)))["job_id"]
    assert house.wait(client, job)["state"] == "done"
    thresholds = kept.thresholds.model_copy(update={"min_attacks": 1})
    for wrong in (
        looser.model_copy(update={"thresholds": thresholds}),
        looser.model_copy(update={"name": kept.name}),
        *(
            looser.model_copy(update={"name": f"{kept.name}{levels}", "thresholds": thresholds})
            for levels in ("@low", "@low@critical", "@critical@critical", "@CRITICAL")
        ),
    ):
        lines = problem(client.post("/audits", json=body(house, client, wrong)), 422, "invalid_input")["problems"]
        assert f"another policy '{kept.name}'" in lines[-1], wrong.name


def test_a_long_name_is_not_cut(house, client, reviewer):
    longs = [Policy(name=name, fail_on=RiskLevel.LOW) for name in ("b" * 80, "b" * 80 + "2", "c" * 100)]
    for long in longs:
        good(reviewer.put(f"/policies/{long.name}", json=long.model_dump(mode="json")))
    for long in longs:
        good(client.post("/audits", json=body(house, client, long.failing_on(RiskLevel.MEDIUM))))
    problem(client.post("/audits", json=body(house, client, Policy(name="d" * 101))), 422, "invalid_input")


def test_no_name_says_another_level_than_the_policy_fails_on(house, client):
    sent = {"name": "nobodys@low", "fail_on": "critical"}
    said = problem(client.post("/audits", json=body(house, client, sent)), 422, "invalid_input")
    assert said["problems"] == ["policy: it is called 'nobodys@low', and fails on critical"]


def test_two_policies_never_come_to_one_name(house, client, kept):
    """An older version let a team keep what `--fail-on` makes of another of its policies."""
    loose = kept.failing_on(RiskLevel.CRITICAL)
    older(house, loose.model_copy(update={"version": "0"}).model_dump(mode="json"))
    assert "another policy" in str(
        problem(client.post("/audits", json=body(house, client, loose)), 422, "invalid_input")
    )
    good(client.post("/audits", json=body(house, client, kept)))


def test_a_default_that_an_older_version_kept_is_not_given_for_the_built_in_one(house, client, reviewer):
    older(house, Policy(version="0", fail_on=RiskLevel.CRITICAL).model_dump(mode="json"))
    try:
        sent = body(house, client, {}) | {"policy": "default"}
        (line,) = problem(client.post("/audits", json=sent), 422, "invalid_input")["problems"]
        assert "'default' of your team would be told as '(unnamed)'" in line
        good(client.post("/audits", json=body(house, client, {})))
    finally:
        good(reviewer.delete("/policies/default"))


def older(house, policy):
    """Keep a policy as an older version let a team keep it."""
    now = house.services.clock.now()
    with house.services.database() as tx:
        tx.policies.add(NamedPolicy(secrets.token_hex(16), now, LOCAL_TEAM, policy["name"], policy, "ann"))


def test_nobody_keeps_a_policy_by_a_name_that_fail_on_makes(reviewer, kept):
    for name, words in ((f"{kept.name}@high", "is what `--fail-on` makes of"), ("default@low", "of the built-in")):
        sent = Policy(name=name, version="2").model_dump(mode="json")
        (line,) = problem(reviewer.put(f"/policies/{name}", json=sent), 422, "invalid_input")["problems"]
        assert words in line


def test_a_kept_default_refuses_no_policy_without_a_name(house, client, reviewer):
    good(reviewer.put("/policies/default", json={"name": "default"}))
    try:
        for sent in ({"fail_on": "medium"}, {"name": "default@medium", "fail_on": "medium"}, {"version": "2"}):
            assert good(client.post("/audits", json=body(house, client, sent)))["job_id"]
    finally:
        good(reviewer.delete("/policies/default"))


def test_an_audit_goes_on_by_the_policy_of_today_or_not_at_all(house, client, reviewer, kept):
    def stopped(name):
        job = good(client.post("/audits", json=body(house, client, kept, name)))["job_id"]
        wait_for(lambda: good(client.get(f"/jobs/{job}"))["state"] == "running")
        good(client.post(f"/jobs/{job}/cancel"))
        assert house.wait(client, job)["state"] == "cancelled"
        return job

    job = stopped("slow-replaced")
    stricter = kept.model_copy(update={"version": "2"}).model_dump(mode="json")
    good(reviewer.put(f"/policies/{kept.name}", json=stricter))
    said = problem(client.post(f"/jobs/{job}/resume"), 422, "invalid_input")
    assert said["problems"] == [f"the policy of this audit: your team has another policy '{kept.name}'"]
    with Visitor(house, Role.SUBMITTER) as visitor:
        assert "by a policy of today" in told(visitor.post(f"/jobs/{job}/rerun"), 422).text
    good(reviewer.delete(f"/policies/{kept.name}"))
    let_go(house.settings.home)
    good(client.post(f"/jobs/{job}/resume"))
    assert house.wait(client, job)["state"] == "done", "nothing else has the name"
    good(reviewer.put(f"/policies/{kept.name}", json=stricter))
    good(client.post(f"/jobs/{job}/resume"))
    said = problem(client.post("/remediations", json={"audit": job}), 422, "invalid_input")
    assert "the policy of this audit: your team has another policy" in said["problems"][0]


def test_an_audit_that_runs_is_not_stopped_by_a_new_policy(house, client, reviewer, kept):
    hold(house.settings.home)
    job = good(client.post("/audits", json=body(house, client, kept, "slow-running")))["job_id"]
    wait_for(lambda: ("attack/ppa/0", "running") in units(client, job))
    good(reviewer.put(f"/policies/{kept.name}", json=kept.model_copy(update={"version": "2"}).model_dump(mode="json")))
    assert good(client.post(f"/jobs/{job}/resume"))["state"] == "running"
    let_go(house.settings.home)
    assert house.wait(client, job)["state"] == "done"


def units(client, job):
    return [(unit["key"], unit["state"]) for unit in good(client.get(f"/jobs/{job}"))["units"]]


def test_a_policy_that_another_version_kept_hides_no_other(house, client, reviewer, kept):
    name = f"old-{secrets.token_hex(4)}"
    older(house, Policy(name=name).model_dump(mode="json") | {"max_leak": 3})
    rows = {row["name"]: row for row in good(reviewer.get("/policies"))["items"]}
    assert rows[kept.name]["policy"]["fail_on"] == "low"
    assert rows[name]["policy"] is None
    assert "max_leak: unknown key" in rows[name]["problem"]
    assert good(reviewer.get(f"/policies/{name}"))["problem"] == rows[name]["problem"]
    with Visitor(house, Role.REVIEWER) as visitor:
        root = visitor.page("/policies")
        assert "max_leak: unknown key" in root.text
        assert kept.name in root.text
    for asked in (name, Policy(name=name).model_dump(mode="json")):
        sent = body(house, client, {}) | {"policy": asked, "files": {"no-such": {"upload": "f" * 32}}}
        said = problem(client.post("/audits", json=sent), 422, "invalid_input")["problems"]
        assert said[0] == "files: the manifest names no path 'no-such'"
        assert f"policy: the team's policy '{name}' cannot be read" in said[1]
    good(reviewer.put(f"/policies/{name}", json={"name": name}))
    assert good(reviewer.get(f"/policies/{name}"))["problem"] == ""
