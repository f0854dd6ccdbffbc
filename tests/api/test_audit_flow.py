"""From an upload to a report and its pictures, over real HTTP, with the runner in a process of its own."""

import base64
import json
import secrets
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from api_house import OTHERS, good, problem
from api_specimen import GALLERY, PNG, specimen

from auditor.contracts.base import digest_of
from auditor.contracts.gate import FindingState
from auditor.contracts.people import Role
from auditor.contracts.policy import Policy, Verdict
from auditor.contracts.report import AuditReport
from auditor.report.formats import FORMATS
from auditor.service.accounts import StoredWaiver
from auditor.service.records import LOCAL_TEAM
from auditor.testing.handlers import hold, let_go, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture(params=["house", pytest.param("postgres_house", marks=pytest.mark.integration)])
def place(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def client(place):
    with place.client(Role.SUBMITTER) as client:
        yield client


@pytest.fixture
def reviewer(place):
    with place.client(Role.REVIEWER) as client:
        yield client


def test_an_audit_runs_to_its_report(place, client):
    private, public = place.upload(client, b"private"), place.upload(client, b"public")
    good(client.post("/data-sets", json={"name": "people", "upload": private}))
    manifest = {
        "model": {"name": "flow"},
        "data": {"private": {"path": "/secret/of/the/laptop"}, "public": {"path": "pub/"}},
    }
    files = {"/secret/of/the/laptop": {"data_set": "people"}, "pub/": {"upload": public}}
    body = {"model": place.upload(client, b"weights"), "manifest": manifest, "files": files}
    started = client.post("/audits", json=body)
    assert started.status_code == 202, started.text
    job = good(started)["job_id"]
    done = place.wait(client, job)
    assert (done["state"], done["kind"], done["name"]) == ("done", "audit", "flow")
    report = AuditReport.model_validate_json(client.get(f"/reports/{job}").content)
    assert report.id == done["report_ids"][-1]
    again = good(client.post("/audits", json=body))
    assert (again["job_id"], again["reused"]) == (job, True)
    (entry,) = [row for row in good(client.get("/reports"))["items"] if row["job_id"] == job]
    assert entry["verdict"] == "fail"
    (submission,) = [row for row in good(client.get("/submissions"))["items"] if row["name"] == "flow"]
    assert good(client.get(f"/submissions/{submission['id']}")) == submission
    with place.services.database() as tx:
        stored = tx.submissions.get(submission["id"])
    assert stored.manifest.data.private.path.as_posix() == "private.npz", "no path of the sender is kept"


def test_everything_that_is_missing_is_said_at_once(place, client):
    manifest = {"model": {"name": "gaps"}, "data": {"private": {"path": "a"}, "public": {"path": "b"}}}
    half = good(client.post("/uploads", json={"name": "x", "size": 9, "sha256": "a" * 64}))["id"]
    body = {
        "model": "f" * 32,
        "manifest": manifest,
        "files": {"a": {"upload": half}, "c": {"upload": half}},
        "policy": "nowhere",
    }
    problems = problem(client.post("/audits", json=body), 422, "invalid_input")["problems"]
    assert len(problems) == 5
    for part in ("data.public.path", "no path 'c'", "0 of 9 bytes", "f" * 32, "policy 'nowhere'"):
        assert any(part in line for line in problems), part


def test_a_refused_submission_lists_every_problem_and_leaves_nothing(place, client):
    body = {"model": place.upload(client, b"junk"), "manifest": {"model": {"name": "refused"}}}
    answer = problem(client.post("/audits", json=body), 422, "invalid_input")
    assert answer["problems"] == ["the model is not a model", "the data is not data"]
    assert not [row for row in good(client.get("/jobs"))["items"] if row["name"] == "refused"]


def test_a_budget_is_kept_or_refused(place, client):
    body = {"model": place.upload(client, b"weights"), "manifest": {"model": {"name": "budgeted"}}}
    refused = problem(client.post("/audits", json=body | {"budget_s": 5e-324}), 422, "invalid_input")
    assert refused["problems"] == ["no attack fits into the budget"]
    job = good(client.post("/audits", json=body | {"budget_s": 60}))["job_id"]
    assert place.wait(client, job)["state"] == "done"


def test_a_stored_policy_is_used_by_its_name(place, client, reviewer):
    good(reviewer.put("/policies/strict", json={"name": "strict", "fail_on": "low"}))
    job = place.audit(client, "by-policy", policy="strict")
    assert _policy_of(place, job)["fail_on"] == "low"


def _policy_of(place, job):
    with place.services.database() as tx:
        inputs = tx.submissions.get(tx.jobs.get(job).submission_id).inputs
    return json.loads(place.services.store.get_bytes(inputs["policy.json"]))


def test_nobody_passes_a_policy_of_their_own_off_as_the_teams(place, client, reviewer):
    good(reviewer.put("/policies/gatekeeper", json={"name": "gatekeeper", "fail_on": "low"}))
    own = {"name": "gatekeeper", "version": "7", "fail_on": "critical"}
    alike = reviewer.put("/policies/GateKeeper", json=own | {"name": "GateKeeper"})
    assert "there is a policy 'gatekeeper'" in str(problem(alike, 422, "invalid_input"))
    body = {"model": place.upload(client, b"weights"), "manifest": {"model": {"name": "passed-off"}}}
    in_manifest = body | {"manifest": {"model": {"name": "passed-off"}, "policy": own}}
    for sent in (body | {"policy": own}, in_manifest):
        (told,) = problem(client.post("/audits", json=sent), 422, "invalid_input")["problems"]
        assert "another policy 'gatekeeper'" in told
    for name in ("Gatekeeper", "gatekeeper ", "gate\u200bkeeper", "g\u0430tekeeper"):
        sent = body | {"policy": own | {"name": name}}
        (told,) = problem(client.post("/audits", json=sent), 422, "invalid_input")["problems"]
        assert ("another policy 'gatekeeper'" if name == "Gatekeeper" else "is not made of letters") in told
    for policy in (own | {"name": "mine"}, {"name": "gatekeeper", "fail_on": "low"}):
        assert (
            place.wait(client, good(client.post("/audits", json=body | {"policy": policy}))["job_id"])["state"]
            == "done"
        )


def test_what_is_wrong_with_a_policy_is_told_by_its_own_keys(place, client):
    body = {"model": place.upload(client, b"weights"), "manifest": {"model": {"name": "wrong-policy"}}}
    for wrong, told in (
        ("not a name", ["policy: String should match"]),
        (
            {"fail_on": "lwo", "max_waver_days": 3},
            ["policy.fail_on: Input should be", "policy.max_waver_days: unknown"],
        ),
    ):
        problems = problem(client.post("/audits", json=body | {"policy": wrong}), 422, "invalid_input")["problems"]
        assert [line[: len(start)] for line, start in zip(problems, told, strict=True)] == told, problems


def test_no_team_gives_the_built_in_policys_name_to_another(place, client, reviewer):
    for name in ("default", "Default"):
        other = reviewer.put(f"/policies/{name}", json={"name": name, "fail_on": "critical"})
        assert "are of the built-in policy" in str(problem(other, 422, "invalid_input"))
    body = {"model": place.upload(client, b"weights"), "manifest": {"model": {"name": "by-default"}}}
    for name in ("default", "Default"):
        sent = body | {"policy": {"name": name, "fail_on": "critical"}}
        job = good(client.post("/audits", json=sent))["job_id"]
        assert Policy.model_validate(_policy_of(place, job)).label == "default@critical"
    job = good(client.post("/audits", json=body | {"policy": "default"}))["job_id"]
    assert Policy.model_validate(_policy_of(place, job)) == Policy()
    good(reviewer.put("/policies/default", json={"name": "default"}))
    with place.services.database() as tx:
        row = tx.policies.find(name="default")
        tx.policies.change(row.id, policy=row.policy | {"fail_on": "low"})
    refused = problem(client.post("/audits", json=body | {"policy": "default"}), 422, "invalid_input")
    assert "would be told as 'default@low'" in str(refused), "as an older version kept it"
    good(reviewer.delete("/policies/default"))


def test_values_are_taken_as_they_are_written_and_keys_are_known(client):
    body = {"model": "f" * 32, "manifest": {"model": {"name": "x", "n_classes": "3"}}, "fresh": "yes", "fersh": True}
    problems = problem(client.post("/audits", json=body), 422, "invalid_input")["problems"]
    assert len(problems) == 3
    assert any("fersh" in line and "Did you mean 'fresh'?" in line for line in problems)
    problem(client.get("/jobs", params={"limti": 3}), 422, "invalid_input")
    problem(client.post("/audits", content=b"{", headers={"content-type": "application/json"}), 422, "invalid_input")


def test_a_running_audit_is_followed_cancelled_and_resumed(place, client):
    job = place.audit(client, "slow-one")
    wait_for(lambda: ("attack/ppa/0", "running") in units(client, job))
    stopping = good(client.post(f"/jobs/{job}/cancel"))
    assert stopping["cancel_requested"]
    assert place.wait(client, job)["state"] == "cancelled"
    let_go(place.settings.home)
    assert good(client.post(f"/jobs/{job}/resume"))["state"] == "queued"
    assert place.wait(client, job)["state"] == "done"


def test_a_server_without_workers_runs_units_in_the_order_that_it_tells(house):
    hold(house.settings.home)
    with house.client(Role.SUBMITTER) as ours, house.client(Role.SUBMITTER, OTHERS) as theirs:
        first = house.audit(ours, "slow-turn")
        wait_for(lambda: ("attack/ppa/0", "running") in units(ours, first))
        later = house.audit(ours, "later-turn")
        urgent = house.audit(theirs, "urgent-turn", priority=10)
        places = [
            good(client.get(f"/jobs/{job}"))["queue_position"] for client, job in ((theirs, urgent), (ours, later))
        ]
        assert places == [1, 2]
        let_go(house.settings.home)
        ended = [
            house.wait(client, job)["finished_at"] for client, job in ((theirs, urgent), (ours, first), (ours, later))
        ]
    assert ended == sorted(ended)


def units(client, job):
    return [(unit["key"], unit["state"]) for unit in good(client.get(f"/jobs/{job}"))["units"]]


def events(client, job, **headers):
    """Id and state of each event until the stream ends."""
    told = []
    with client.stream("GET", f"/jobs/{job}/events", headers=headers) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        for line in stream.iter_lines():
            name, _, value = line.partition(": ")
            if name == "id":
                told.append([value])
            elif name == "data":
                told[-1].append(json.loads(value)["state"])
    return told


def test_events_tell_the_whole_state_and_nothing_twice(place, client):
    job = place.audit(client, "watched")
    told = events(client, job)
    assert told[-1][1] == "done"
    assert len({mark for mark, _ in told}) == len(told)
    assert events(client, job, **{"Last-Event-ID": told[-1][0]}) == []
    assert events(client, job, **{"Last-Event-ID": "long ago"}) == [told[-1]]


def test_events_end_when_the_person_is_disabled(place, client):
    job = place.audit(client, "slow-watched")
    person = place.users[LOCAL_TEAM, Role.SUBMITTER]
    try:
        with client.stream("GET", f"/jobs/{job}/events") as stream:
            lines = stream.iter_lines()
            assert next(lines).startswith("id: ")
            with place.services.database() as tx:
                tx.users.change(person.id, disabled=True)
            *_, event, data, _end = lines
        assert event == "event: problem"
        assert json.loads(data.removeprefix("data: "))["code"] == "not_signed_in"
    finally:
        with place.services.database() as tx:
            tx.users.change(person.id, disabled=False)
        let_go(place.settings.home)
    assert place.wait(client, job)["state"] == "done"


def test_lists_come_in_parts_that_miss_nothing(place, client):
    jobs = {specimen(place, LOCAL_TEAM).ids["job_id"] for _ in range(4)}
    seen, after = [], None
    while True:
        page = good(client.get("/jobs", params={"limit": 2} | ({"after": after} if after else {})))
        seen += [row["id"] for row in page["items"]]
        after = page["next"]
        if after is None:
            break
        assert len(page["items"]) == 2
    assert len(seen) == len(set(seen))
    assert jobs <= set(seen)
    times = [good(client.get(f"/jobs/{job}"))["created_at"] for job in seen]
    assert times == sorted(times, reverse=True)
    before_all_time = base64.b64encode(b"0001-01-01T00:00:00+23:59 a").decode()
    for nonsense in ("x", "AAAA", "MjAzMC0wMS0wMSB4", before_all_time, after or "====="):
        problem(client.get("/jobs", params={"after": nonsense}), 422, "invalid_input")


def test_a_request_with_a_key_is_done_once(place, client):
    key = {"Idempotency-Key": "build-17"}
    body = {"model": place.upload(client, b"weights"), "manifest": {"model": {"name": "once"}}, "fresh": True}
    first, second = (client.post("/audits", json=body, headers=key) for _ in range(2))
    assert (first.status_code, first.json()) == (second.status_code, second.json())
    assert "Idempotent-Replayed" not in first.headers
    assert second.headers["Idempotent-Replayed"] == "true"
    assert len([row for row in good(client.get("/jobs"))["items"] if row["name"] == "once"]) == 1
    answer = problem(client.post("/audits", json=body | {"fresh": False}, headers=key), 422, "invalid_input")
    assert "another request" in answer["detail"]
    with place.client(Role.REVIEWER) as other:
        assert other.post("/audits", json=body, headers=key).json()["job_id"] != first.json()["job_id"]


def test_a_request_that_failed_may_be_tried_again_with_its_key(place, client):
    key, body = {"Idempotency-Key": "build-18"}, {"name": "later", "upload": "f" * 32}
    problem(client.post("/data-sets", json=body, headers=key), 404, "not_found")
    body["upload"] = place.upload(client, b"data")
    good(client.post("/data-sets", json=body, headers=key))


def test_a_report_comes_in_every_format_and_is_not_sent_twice(place, client):
    things = specimen(place, LOCAL_TEAM)
    address = f"/reports/{things.ids['report_id']}"
    tags = set()
    for fmt in FORMATS:
        answer = client.get(address, params={"format": fmt})
        assert answer.status_code == 200
        tag = answer.headers["etag"]
        tags.add(tag)
        same = client.get(address, params={"format": fmt}, headers={"If-None-Match": f'"other", {tag}'})
        assert (same.status_code, same.content) == (304, b"")
        for known in (f"W/{tag}", f'"x",W/{tag}', "*"):
            assert client.get(address, params={"format": fmt}, headers={"If-None-Match": known}).status_code == 304
        assert client.get(address, params={"format": fmt}, headers={"If-None-Match": '"x"'}).status_code == 200
    assert len(tags) == len(FORMATS)
    assert PNG not in client.get(address, params={"format": "html"}).content
    assert "'sandbox'" not in answer.headers["content-security-policy"]
    assert "sandbox" in answer.headers["content-security-policy"]
    problem(client.get(address, params={"format": "docx"}), 422, "unknown_name")
    for reference in (things.ids["job_id"], things.ids["report_id"][:12]):
        assert good(client.get(f"/reports/{reference}/entry"))["report_id"] == things.ids["report_id"]


def test_a_picture_is_shown_to_whom_it_was_promised_and_written_down(place, client, reviewer):
    things = specimen(place, LOCAL_TEAM)
    (row,) = good(reviewer.get(f"/reports/{things.ids['report_id']}/pictures"))
    assert [picture["kind"] for picture in row["pictures"]] == ["reconstruction", "reconstruction", "nearest-public"]
    assert [picture["accepted"] for picture in row["pictures"]] == [True, False, None]
    before = views(reviewer, things)
    address = place.url + row["pictures"][1]["url"]
    shown = reviewer.get(address)
    assert (shown.content, shown.headers["content-type"]) == (GALLERY.rows[0].reconstructions_png[1], "image/png")
    assert "no-store" in shown.headers["cache-control"]
    assert views(reviewer, things) == [*before, ("reviewer-l", "0-reconstruction-1")]
    with place.client(Role.ADMIN) as admin:
        problem(admin.get(address), 403, "not_allowed")  # it was given to someone else
    problem(reviewer.get(address.replace("0-reconstruction-1", "0-reconstruction-0")), 403, "not_allowed")
    problem(reviewer.get(address.replace("expires=", "expires=9")), 403, "not_allowed")
    problem(client.get(f"/reports/{things.ids['report_id']}/pictures"), 403, "not_allowed")
    assert views(reviewer, things) == [*before, ("reviewer-l", "0-reconstruction-1")], "refusals are no views"


def views(reviewer, things):
    """Who looked at which picture of the report."""
    lines = good(reviewer.get("/audit-log", params={"limit": 200}))["items"]
    return [
        (line["who"], line["detail"]["picture"])
        for line in lines
        if line["what"] == "picture.view" and line["subject"] == things.ids["report_id"]
    ]


def test_an_address_of_a_picture_grows_old(place, reviewer, monkeypatch):
    things = specimen(place, LOCAL_TEAM)
    monkeypatch.setattr("auditor.api.routes.reports.SIGNED_FOR_S", -1)
    (row,) = good(reviewer.get(f"/reports/{things.ids['report_id']}/pictures"))
    problem(reviewer.get(place.url + row["pictures"][0]["url"]), 403, "not_allowed")


def test_a_baseline_is_the_report_of_a_finished_audit_of_that_model(place, reviewer):
    things = specimen(place, LOCAL_TEAM)
    model = things.ids["model"]
    approved = good(reviewer.put(f"/baselines/{model}", json={"report": things.ids["report_id"]}))
    assert (approved["report_id"], approved["approved_by"]) == (things.ids["report_id"], "reviewer-l")
    wrong = {"report": things.ids["repair_id"]}
    problems = problem(reviewer.put("/baselines/elsewhere", json=wrong), 422, "invalid_input")["problems"]
    assert len(problems) == 2
    assert good(reviewer.get(f"/baselines/{model}")) == approved


def test_a_remediation_is_started_from_an_audit(place, client):
    things = specimen(place, LOCAL_TEAM)
    started = good(
        client.post("/remediations", json={"audit": things.ids["job_id"], "defense": "neg-ls", "priority": -3})
    )
    assert good(client.get(f"/jobs/{started['job_id']}"))["kind"] == "repair"
    with place.services.database() as tx:
        assert tx.jobs.get(started["job_id"]).priority == -3
    for weights in ("/etc/passwd", "../x.safetensors", "torchvision:../x"):
        body = {"audit": things.ids["job_id"], "weights": weights}
        problem(client.post("/remediations", json=body), 422, "invalid_input")
    assert client.get(f"/remediations/{things.ids['repair_id']}/model").content == b"repaired"


def test_the_teams_waivers_decide_in_every_format(place, client, reviewer):
    things = specimen(place, LOCAL_TEAM)

    def read(fmt="json"):
        return client.get(f"/reports/{things.ids['job_id']}", params={"format": fmt}).text

    before = AuditReport.model_validate_json(read())
    failing = [finding.key for finding in before.decision.having(FindingState.FAILING)]
    assert (before.decision.verdict, bool(failing)) == (Verdict.FAIL, True)
    waiver = {"model": before.target.name, "reason": "retrained next week", "days": 3, "up_to": "critical"}
    made = [good(reviewer.post("/waivers", json=waiver | {"finding": finding})) for finding in failing]
    after = AuditReport.model_validate_json(read())
    assert [finding.key for finding in after.decision.having(FindingState.WAIVED)] == failing
    assert after.decision.verdict is not Verdict.FAIL
    assert after.decision.evidence is Verdict.FAIL
    assert after.verdict == before.verdict, "the number and the evidence's own verdict stay"
    assert "suppressions" in read("sarif")
    assert "<failure" not in read("junit")
    for row in made:
        assert reviewer.delete(f"/waivers/{row['id']}").status_code == 204
    assert AuditReport.model_validate_json(read()).decision.verdict is Verdict.FAIL


@pytest.mark.parametrize("blank", [" ", "\u2028", "\u3000", "\u200b", "\u2060", "\u3164", "\u2800", "\u115f"])
def test_a_waiver_of_a_blank_reason_is_refused(reviewer, blank):
    waiver = {"finding": "attack:ppa", "model": "m", "days": 3}
    problem(reviewer.post("/waivers", json=waiver | {"reason": blank * 12}), 422, "invalid_input")
    padded = waiver | {"reason": f"short{blank * 12}"}
    problem(reviewer.post("/waivers", json=padded), 422, "invalid_input")


def test_a_stored_waiver_without_a_reason_lets_nothing_through_and_hides_no_report(place, client):
    things, now = specimen(place, LOCAL_TEAM), place.services.clock.now()
    before = client.get(f"/reports/{things.ids['job_id']}").content
    report, lasting = AuditReport.model_validate_json(before), now + timedelta(days=3)
    for finding in report.decision.having(FindingState.FAILING):
        made = StoredWaiver(
            secrets.token_hex(16), now, LOCAL_TEAM, finding.key, report.target.name, " " * 12, "ann", lasting
        )
        with place.services.database() as tx:
            tx.waivers.add(made)
    for name in FORMATS:
        assert client.get(f"/reports/{things.ids['job_id']}", params={"format": name}).status_code == 200
    assert client.get(f"/reports/{things.ids['job_id']}").content == before


def test_decisions_under_one_name_at_once_replace_each_other(place, reviewer):
    ids = specimen(place, LOCAL_TEAM).ids
    asked = {f"/policies/{ids['name']}": {"name": ids["name"]}, f"/baselines/{ids['model']}": {"report": ids["job_id"]}}
    for address, body in asked.items():
        good(reviewer.delete(address))
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _, at=address, what=body: reviewer.put(at, json=what), range(8)))
        assert [answer.status_code for answer in answers] == [200] * 8, answers[-1].text


def test_no_policy_is_stored_under_a_name_that_no_audit_can_ask_for(reviewer):
    for name in ("x y", "x" * 101):
        problem(reviewer.put(f"/policies/{name}", json={"name": name}), 422, "invalid_input")


def test_every_decision_is_in_the_audit_log(place, client, reviewer):
    waiver = good(
        reviewer.post("/waivers", json={"finding": "attack:ppa", "model": "m", "reason": "known and small", "days": 3})
    )
    good(reviewer.delete(f"/waivers/{waiver['id']}"))
    lines = good(reviewer.get("/audit-log", params={"limit": 2}))["items"]
    told = [(line["who"], line["what"], line["subject"]) for line in lines]
    assert told == [("reviewer-l", f"waiver.{verb}", waiver["id"]) for verb in ("withdraw", "create")]


def test_what_is_not_there_is_a_problem_too(client):
    problem(client.get("/nothing"), 404, "http_error")
    problem(client.put("/jobs"), 405, "http_error")


def test_submissions_that_come_together_are_all_taken_and_each_is_its_own(house):
    """Checks share the runner, and the process it keeps waiting."""

    def submit(number):
        with house.client(Role.SUBMITTER) as client:
            return house.audit(client, f"together-{number}", data=b"weights %d" % number)

    with ThreadPoolExecutor(6) as pool:
        jobs = list(pool.map(submit, range(6)))
    with house.services.database() as tx:
        assert [tx.jobs.get(job).name for job in jobs] == [f"together-{number}" for number in range(6)]
        digests = [tx.submissions.get(tx.jobs.get(job).submission_id).target.digest for job in jobs]
    assert digests == [digest_of(b"weights %d" % number) for number in range(6)]
