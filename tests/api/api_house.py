"""A real server on a real socket, with two teams of three people each, and a client for every one of them."""

import hashlib
import secrets
import threading
from contextlib import contextmanager
from datetime import timedelta

import httpx
import uvicorn

from auditor.api.app import build_app
from auditor.bootstrap import build_services, migrate
from auditor.contracts.people import Role, Scope
from auditor.service.accounts import Team, Token, User
from auditor.service.people import digest_of_secret, hash_password, new_secret
from auditor.service.records import LOCAL_TEAM
from auditor.testing.handlers import wait_for

HANDLERS = "auditor.testing.handlers:fast_handlers"
PASSWORD = "correct horse battery"  # noqa: S105
OTHERS = "0" * 31 + "2"


@contextmanager
def serving(app, listening=None, **options):
    """Address of `app`, served by uvicorn in a thread, on a socket that listens already if there is one."""
    options = {"log_level": "warning", "lifespan": "on"} | options
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, **options))
    thread = threading.Thread(target=server.run, args=(listening and [listening],))
    thread.start()
    try:
        wait_for(lambda: server.started or not thread.is_alive())
        host, port = server.servers[0].sockets[0].getsockname()
        yield f"http://{host}:{port}"
    finally:
        server.should_exit = True
        thread.join()


class Installation:
    """A server, and everyone who may use it.

    Attributes:
        url: its address.
        services: what it works with.
        tokens: secret by (team, role).
    """

    def __init__(self, url, app, services, settings):
        self.url, self.app, self.services, self.settings = url, app, services, settings
        self.tokens = {}
        self.users = {}
        now = services.clock.now()
        with services.database() as tx:
            tx.teams.add(Team(OTHERS, now, "others"))
            for team in (LOCAL_TEAM, OTHERS):
                for role in Role:
                    user = User(secrets.token_hex(16), now, team, f"{role}-{team[:1]}", role, HASH)
                    tx.users.add(user)
                    self.users[team, role] = user
        for (team, role), user in self.users.items():
            self.tokens[team, role] = self.token_of(user, tuple(Scope))

    def token_of(self, user, scopes):
        """A new token of `user`."""
        secret, now = new_secret(), self.services.clock.now()
        token = Token(
            secrets.token_hex(16),
            now,
            user.team_id,
            user.id,
            "test",
            digest_of_secret(secret),
            scopes,
            now + timedelta(days=1),
        )
        with self.services.database() as tx:
            tx.tokens.add(token)
        return secret

    def client(self, role=None, team=LOCAL_TEAM, *, token=None):
        """Asks in the name of someone, or of nobody."""
        token = token or (self.tokens[team, role] if role is not None else None)
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return httpx.Client(base_url=f"{self.url}/api/v1", headers=headers, timeout=60)

    def upload(self, client, data, name="model.onnx"):
        """Id of a finished upload of `data`."""
        announced = {"name": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        upload = good(client.post("/uploads", json=announced))["id"]
        assert good(client.put(f"/uploads/{upload}", params={"offset": 0}, content=data))["complete"]
        return upload

    def audit(self, client, name="faces", data=b"weights", **more):
        """Id of a job that audits `data`."""
        body = {"model": self.upload(client, data), "manifest": {"model": {"name": name}}} | more
        return good(client.post("/audits", json=body))["job_id"]

    def wait(self, client, job):
        """The job when it has ended."""
        wait_for(lambda: good(client.get(f"/jobs/{job}"))["state"] not in ("queued", "running"))
        return good(client.get(f"/jobs/{job}"))


HASH = hash_password(PASSWORD)


def good(response):
    """Body of a response that must have succeeded."""
    assert response.status_code < 300, (response.status_code, response.text)
    return response.json() if response.content else None


def problem(response, status, code):
    """The problem that a refused request was answered."""
    assert response.status_code == status, (response.status_code, response.text)
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert (body["status"], body["code"], body["type"]) == (status, code, f"urn:auditor:{code}")
    assert body["problems"]
    assert body["remedy"]
    return body


@contextmanager
def installed(settings, handlers=HANDLERS, listening=None, **options):
    """A whole installation on `settings`."""
    migrate(settings)
    services = build_services(settings, handlers=handlers)
    app = build_app(services, settings, **options)
    try:
        with serving(app, listening) as url:
            yield Installation(url, app, services, settings)
    finally:
        services.close()
