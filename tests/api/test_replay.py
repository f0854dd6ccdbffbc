"""Idempotency keys when a process dies in the middle of a request, and what a repeated request finds then."""

import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass
from datetime import timedelta

import pytest
from api_house import good, problem

from auditor.api.replay import Replay
from auditor.contracts.people import Role
from auditor.db.engine import build_engine
from auditor.db.migrate import upgrade
from auditor.db.unit_of_work import SqlTransactions
from auditor.errors import UnderWay
from auditor.service.accounts import Team, User
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


def test_a_submission_whose_answer_was_lost_after_its_job_was_made_is_still_one_job(house):
    """The process was killed between the two: no answer is kept, and the client sends the request again."""
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
