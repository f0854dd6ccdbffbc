"""Idempotency keys when a process dies in the middle of a request, and what a repeated request finds then."""

import hashlib
import hmac
import itertools
import json
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta

import httpx
import pytest
from api_house import HANDLERS, good, problem, serving
from api_specimen import specimen

from auditor.api import guard
from auditor.api.app import build_app
from auditor.api.replay import KEPT_FOR, Replay
from auditor.api.rights import RIGHTS
from auditor.bootstrap import build_services
from auditor.contracts.people import Role
from auditor.db.engine import build_engine
from auditor.db.migrate import upgrade
from auditor.db.tables import SqlTable
from auditor.db.unit_of_work import SqlTransactions
from auditor.errors import InvalidInput, StorageFailure, UnderWay
from auditor.service.accounts import Answer, Team, User
from auditor.service.jobs import Jobs
from auditor.service.people import Identity
from auditor.service.records import LOCAL_TEAM
from auditor.testing.database import InMemoryTransactions
from auditor.testing.ports import SetClock

LEASE = timedelta(seconds=60)
REQUEST = ("POST", "/api/v1/audits", b"{}")


@dataclass
class Keys:
    database: object
    clock: SetClock

    def replay(self, key="k", signing_key=b"signs"):
        """As another process would make it."""
        now = self.clock.now()
        team, user = Team(LOCAL_TEAM, now, "local"), User("u" * 32, now, LOCAL_TEAM, "ann", Role.SUBMITTER, None)
        return Replay(self.database, self.clock, Identity(user, team, frozenset(), None, "t"), key, LEASE, signing_key)


@pytest.fixture(params=["memory", "sqlite"])
def keys(request, sqlite_url):
    if request.param == "memory":
        yield Keys(InMemoryTransactions(), SetClock())
        return
    engine = build_engine(sqlite_url)
    upgrade(engine)
    yield Keys(SqlTransactions(engine), SetClock())
    engine.dispose()


def test_a_request_is_worked_on_by_one_process_as_long_as_that_shows_a_sign_of_life(keys):
    first = keys.replay()
    assert first.begin(*REQUEST) is None
    for _ in range(3):
        keys.clock.sleep(50)
        first.renew()
        with pytest.raises(UnderWay) as refused:
            keys.replay().begin(*REQUEST)
        assert refused.value.retryable
    first.keep(202, b"done")
    assert keys.replay().begin(*REQUEST) == (202, "done")


def test_what_a_process_left_that_died_is_taken_over_once_and_it_cannot_answer_any_more(keys):
    died = keys.replay()
    assert died.begin(*REQUEST) is None
    keys.clock.sleep(61)
    heir = keys.replay()
    assert heir.begin(*REQUEST) is None
    with pytest.raises(UnderWay):
        keys.replay().begin(*REQUEST)
    died.renew()
    died.keep(500, b"late")
    died.forget()
    heir.keep(202, b"done")
    assert keys.replay().begin(*REQUEST) == (202, "done")


def test_another_request_inherits_no_key_of_a_process_that_died(keys):
    """It would be told that what it asks for had been done already."""
    died = keys.replay()
    assert died.begin(*REQUEST) is None
    for seconds in (1, 60, 3600):
        keys.clock.sleep(seconds)
        with pytest.raises(InvalidInput, match="used for another request"):
            keys.replay().begin("DELETE", "/api/v1/tokens/other", b"")
    heir = keys.replay()
    assert (heir.begin(*REQUEST), heir.is_heir) == (None, True)
    keys.clock.sleep(KEPT_FOR.total_seconds() + 1)
    other = keys.replay()
    assert (other.begin("DELETE", "/api/v1/tokens/other", b""), other.is_heir) == (None, False)


def test_who_tries_again_after_an_heir_that_failed_is_an_heir_at_once(keys):
    died = keys.replay()
    died.begin(*REQUEST)
    keys.clock.sleep(61)
    for _ in range(2):
        heir = keys.replay()
        assert (heir.begin(*REQUEST), heir.is_heir) == (None, True)
        heir.forget()
    died.keep(202, b"late")
    last = keys.replay()
    assert (last.begin(*REQUEST), last.is_heir) == (None, True)
    last.keep(204, b"")
    assert keys.replay().begin(*REQUEST) == (204, "")


def test_what_failed_without_a_process_that_died_leaves_nothing(keys):
    failed = keys.replay()
    failed.begin(*REQUEST)
    failed.forget()
    other = keys.replay()
    assert (other.begin("DELETE", "/api/v1/tokens/other", b""), other.is_heir) == (None, False)


def test_a_request_has_one_id_however_often_it_is_made_and_another_one_another(keys):
    mine = keys.replay().request_id(*REQUEST)
    assert keys.replay().request_id(*REQUEST) == mine
    others = {
        keys.replay(signing_key=b"another installation's").request_id(*REQUEST),
        keys.replay("other").request_id(*REQUEST),
        keys.replay().request_id("POST", "/api/v1/audits", b"[]"),
        keys.replay().request_id("POST", "/api/v1/remediations", b"{}"),
    }
    assert len(others | {mine}) == 5


def test_a_password_cannot_be_guessed_from_what_is_kept_of_its_request(house):
    """Whoever reads the database knows all of the body but the password."""
    with house.client(Role.ADMIN) as client:
        body = b'{"name":"guessed","role":"reviewer","password":"correct horse battery"}'
        headers = {"Content-Type": "application/json", "Idempotency-Key": "guessed"}
        made = good(client.post("/users", content=body, headers=headers))
    with house.services.database() as tx:
        (kept,) = (row for row in tx.answers.page(100) if made["id"] in row.body)
    request = b"idempotency POST /api/v1/users\n" + body
    for guess in (body, b"POST /api/v1/users\n" + body, request):
        assert hashlib.sha256(guess).hexdigest() != kept.digest
    assert kept.digest == hmac.digest(house.app.state.server.key, request, "sha256").hex()
    assert "battery" not in kept.body


def test_a_submission_whose_answer_was_lost_after_its_job_was_made_is_still_one_job(house, monkeypatch):
    """The process was killed between the two: no answer is kept, and the client sends the request again."""
    monkeypatch.setattr(guard, "WAIT_S", 0.3)
    with house.client(Role.SUBMITTER) as client:
        body = {"model": house.upload(client, b"weights"), "manifest": {"model": {"name": "lost"}}, "fresh": True}
        key = {"Idempotency-Key": "build-lost"}
        first = good(client.post("/audits", json=body, headers=key))
        with house.services.database() as tx:
            (answer,) = (row for row in tx.answers.page(100) if first["job_id"] in row.body)
            tx.answers.change(answer.id, status=None, body="", created_at=house.services.clock.now())
        refused = client.post("/audits", json=body, headers=key)
        problem(refused, 409, "under_way")
        assert refused.headers["Retry-After"] == "1"
        with house.services.database() as tx:
            tx.answers.change(answer.id, created_at=house.services.clock.now() - LEASE - timedelta(seconds=1))
        second = good(client.post("/audits", json=body, headers=key))
        assert (second["job_id"], second["reused"]) == (first["job_id"], False)
        assert [row["id"] for row in good(client.get("/jobs"))["items"] if row["name"] == "lost"] == [first["job_id"]]
        assert good(client.post("/audits", json=body, headers={"Idempotency-Key": "next"}))["job_id"] != first["job_id"]


@pytest.mark.parametrize("installation", ["house", pytest.param("postgres_house", marks=pytest.mark.integration)])
@pytest.mark.parametrize("fresh", [True, False])
def test_a_process_that_was_stopped_and_its_heir_make_one_job_of_one_request(request, monkeypatch, installation, fresh):
    """Both had looked for the job before either had made it."""
    monkeypatch.setattr(Jobs, "of_request", lambda self, request_id: None)
    house = request.getfixturevalue(installation)
    with house.client(Role.SUBMITTER) as client:
        name, key = f"n-{secrets.token_hex(4)}", {"Idempotency-Key": secrets.token_hex(4)}
        body = {"model": house.upload(client, name.encode()), "manifest": {"model": {"name": name}}, "fresh": fresh}
        made = good(client.post("/audits", json=body, headers=key))
        with house.services.database() as tx:
            (answer,) = (row for row in tx.answers.page(100) if made["job_id"] in row.body)
            tx.answers.remove(answer.id)
        late = good(client.post("/audits", json=body, headers=key))
        assert (late["job_id"], late["reused"]) == (made["job_id"], False)
        named = [
            row
            for kind in ("jobs", "submissions")
            for row in good(client.get(f"/{kind}"))["items"]
            if row["name"] == name
        ]
        assert len(named) == 2


@pytest.fixture(scope="module")
def finished(house):
    """An upload that is complete."""
    with house.client(Role.ADMIN) as client:
        return house.upload(client, b"images", "data.npz")


def made_by(route, upload):
    """A body that makes something new at this route."""
    name = f"n-{secrets.token_hex(4)}"
    return {
        "/waivers": {"finding": "attack:ppa", "model": name, "reason": "Retrained next week.", "days": 3},
        "/uploads": {"name": name, "size": 5, "sha256": hashlib.sha256(b"bytes").hexdigest()},
        "/data-sets": {"name": name, "upload": upload},
        "/users": {"name": name, "role": "submitter", "password": "correct horse battery"},
        "/teams": {"name": name, "admin": "ann", "password": "correct horse battery"},
    }[route]


@pytest.mark.parametrize("route", ["/waivers", "/uploads", "/data-sets", "/users", "/teams"])
def test_what_a_request_made_whose_answer_was_lost_is_found_and_not_made_twice(house, finished, route):
    """The process was killed between the two: no answer is kept, and the client sends the request again."""
    with house.client(Role.ADMIN) as client:
        body, key = made_by(route, finished), {"Idempotency-Key": secrets.token_hex(4)}
        first = good(client.post(route, json=body, headers=key))
        before = [good(client.get(path, params={"limit": 200}))["items"] for path in (route, "/audit-log")]
        with house.services.database() as tx:
            (answer,) = (
                row for row in tx.answers.page(100) if row.body and first.items() <= json.loads(row.body).items()
            )
            died_at = house.services.clock.now() - LEASE - timedelta(seconds=1)
            tx.answers.change(answer.id, status=None, body="", created_at=died_at)
        again = client.post(route, json=body, headers=key)
        assert "Idempotent-Replayed" not in again.headers
        assert good(again) == first
        assert [good(client.get(path, params={"limit": 200}))["items"] for path in (route, "/audit-log")] == before


DELETES = sorted(path for (method, path), right in RIGHTS.items() if method == "DELETE" and right.replayed)


def test_what_is_deleted_with_a_key_is_all_that_can_be_deleted():
    assert len(DELETES) == 6
    assert {path for method, path in RIGHTS if method == "DELETE"} - set(DELETES) == {"/session"}


def deleted_and_died(house, client, key):
    """A waiver whose deletion was done by a process that died before it could say so, long ago."""
    waiver = specimen(house, LOCAL_TEAM).ids["waiver_id"]
    assert client.delete(f"/waivers/{waiver}", headers=key).status_code == 204
    with house.services.database() as tx:
        answer = next(iter(tx.answers.page(1)))
        died_at = house.services.clock.now() - LEASE - timedelta(seconds=1)
        assert tx.answers.change(answer.id, status=None, body="", created_at=died_at)
    return waiver


class TestDeleting:
    @pytest.fixture
    def client(self, house):
        with house.client(Role.ADMIN) as client:
            yield client

    @pytest.fixture
    def key(self):
        return {"Idempotency-Key": secrets.token_hex(8)}

    @pytest.mark.parametrize("path", DELETES)
    def test_again_with_its_key_is_answered_as_the_first_time(self, house, client, key, path):
        """A client that lost the answer must not be told that what it deleted never was."""
        address = path.format(**specimen(house, LOCAL_TEAM).ids)
        answers = [client.delete(address, headers=key) for _ in range(3)]
        assert [(answer.status_code, answer.content) for answer in answers] == [(204, b"")] * 3
        assert ["Idempotent-Replayed" in answer.headers for answer in answers] == [False, True, True]
        if path != "/tokens/{token_id}":  # a token is revoked as often as one likes
            problem(client.delete(address), 404, "not_found")
            problem(client.delete(address, headers={"Idempotency-Key": "another"}), 404, "not_found")

    def test_what_a_process_had_deleted_that_died_before_it_could_say_so(self, house, client, key):
        waiver = deleted_and_died(house, client, key)
        again = client.delete(f"/waivers/{waiver}", headers=key)
        assert (again.status_code, "Idempotent-Replayed" in again.headers) == (204, False)
        removed = [line for line in good(client.get("/audit-log"))["items"] if line["subject"] == waiver]
        assert [line["what"] for line in removed] == ["waiver.withdraw", "waiver.create"]

    def test_what_was_deleted_and_whose_repetition_failed_at_first(self, house, client, key, monkeypatch):
        waiver = deleted_and_died(house, client, key)
        problem(client.delete("/waivers/" + "e" * 32, headers=key), 422, "invalid_input")

        def gone(*_args):
            raise StorageFailure("the database could not be used: connection refused")

        with monkeypatch.context() as broken:
            broken.setattr(guard, "_handled", gone)
            assert client.delete(f"/waivers/{waiver}", headers=key).status_code == 503
        assert client.delete(f"/waivers/{waiver}", headers=key).status_code == 204

    def test_what_never_was_is_not_found_every_time(self, client, key):
        for _ in range(2):
            problem(client.delete(f"/waivers/{'e' * 32}", headers=key), 404, "not_found")

    def test_a_key_is_for_one_thing(self, house, client, key):
        ids = specimen(house, LOCAL_TEAM).ids
        assert client.delete(f"/waivers/{ids['waiver_id']}", headers=key).status_code == 204
        problem(client.delete(f"/policies/{ids['name']}", headers=key), 422, "invalid_input")
        assert client.get(f"/policies/{ids['name']}").status_code == 200


class TestAtTheSameMoment:
    """Two API processes are sent one request, and both look for an earlier answer before either has written."""

    @pytest.fixture(params=["house", pytest.param("postgres_house", marks=pytest.mark.integration)])
    def two(self, request):
        """An installation, and the addresses of two processes of it."""
        house = request.getfixturevalue(request.param)
        services = build_services(house.settings, handlers=HANDLERS)
        try:
            with serving(build_app(services, house.settings)) as other:
                yield house, (house.url, other)
        finally:
            services.close()

    @pytest.fixture
    def together(self, two, monkeypatch):
        """Sends a request to both; on PostgreSQL neither goes on before both have looked. SQLite lets one at a time."""
        house, addresses = two
        at_once, looks, find = threading.Barrier(2), itertools.count(), SqlTable.find

        def look(table, **equal):
            found = find(table, **equal)
            if table._record is Answer and house.settings.database_url is not None and next(looks) < 2:
                assert found is None
                at_once.wait(timeout=30)
            return found

        def send(method, path, **more):
            headers = {"Authorization": f"Bearer {house.tokens[LOCAL_TEAM, Role.ADMIN]}", "Idempotency-Key": "k" + path}

            def ask(url):
                return httpx.request(method, f"{url}/api/v1{path}", headers=headers, timeout=60, **more)

            for url in addresses:  # routes are built when first asked for, under a filter of warnings all threads share
                httpx.options(f"{url}/api/v1{path}", timeout=60)
            monkeypatch.setattr(SqlTable, "find", look)
            with ThreadPoolExecutor(2) as pool:
                answers = list(pool.map(ask, addresses))
            assert next(looks) >= 2 or house.settings.database_url is None
            return answers

        return send

    def test_both_are_given_the_one_answer(self, two, together):
        house, _ = two
        name = f"m-{secrets.token_hex(4)}"
        body = {"finding": "attack:ppa", "model": name, "reason": "Retrained next week.", "days": 3}
        one, other = together("POST", "/waivers", json=body)
        assert good(one) == good(other)
        assert [one.status_code, other.status_code] == [201, 201]
        assert ("Idempotent-Replayed" in one.headers) != ("Idempotent-Replayed" in other.headers)
        with house.client(Role.ADMIN) as client:
            assert len(good(client.get("/waivers", params={"model": name}))["items"]) == 1

    def test_an_audit_is_begun_once_and_waited_for(self, two, together):
        house, _ = two
        with house.client(Role.ADMIN) as client:
            name = f"n-{secrets.token_hex(4)}"
            body = {"model": house.upload(client, name.encode()), "manifest": {"model": {"name": name}}, "fresh": True}
            one, other = together("POST", "/audits", json=body)
            assert good(one) == good(other)
            assert not good(one)["reused"]
            assert len([row for row in good(client.get("/jobs"))["items"] if row["name"] == name]) == 1
            good(client.post(f"/jobs/{good(one)['job_id']}/cancel"))

    def test_a_thing_is_deleted_once_and_both_are_told_so(self, two, together):
        house, _ = two
        one, other = together("DELETE", f"/waivers/{specimen(house, LOCAL_TEAM).ids['waiver_id']}")
        assert [one.status_code, other.status_code] == [204, 204]
