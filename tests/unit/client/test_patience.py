"""The client's patience: with a server that restarts, with one that is too busy, and with one that does not exist."""

import hashlib
import inspect
import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import auditor.client
from auditor.client.client import Client
from auditor.contracts.manifest import Manifest
from auditor.contracts.service import NewAudit
from auditor.errors import (
    ExitCode,
    InvalidInput,
    NoAuditor,
    NotFound,
    NotSignedIn,
    ServerFailure,
    StorageFailure,
    UnderWay,
)

DONE = (202, {"job_id": "a" * 32, "reused": False, "state": "queued"}, {})
CUT = None
"""The connection ends without an answer, as when the process is killed."""
AUDIT = NewAudit(model="b" * 32, manifest=Manifest.model_validate({"model": {"name": "m"}}))


def refused(status, code, *, retryable=True, after=None):
    problem = {
        "type": f"urn:auditor:{code}",
        "title": "no",
        "status": status,
        "detail": "no",
        "code": code,
        "problems": ["no"],
        "remedy": "wait",
        "retryable": retryable,
    }
    return status, problem, {} if after is None else {"Retry-After": after}


AWAY, BUSY = refused(503, "storage_failure", after="5"), refused(409, "under_way", after="1")


class Scripted(ThreadingHTTPServer):
    """Answers with what it was told, one after the other; keeps what it was asked."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.asked, self.signed = [], [], []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        length = self.headers.get("Content-Length")
        body = self.rfile.read(int(length)) if length else self.chunked()
        self.server.signed.append(self.headers.get("Authorization"))
        self.server.asked.append((self.command, self.path, self.headers.get("Idempotency-Key"), body))
        told = self.server.script.pop(0)
        if told is CUT:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        status, value, headers = told
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = answer

    def chunked(self):
        """A body without a length."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return b""
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def log_message(self, *_args):
        """Quiet."""


@pytest.fixture
def server():
    with Scripted() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def waits():
    return []


@pytest.fixture
def client(server, waits):
    with Client(server.url, "aud_x", part_bytes=4, sleep=waits.append) as client:
        yield client


def test_a_request_is_repeated_with_its_key_until_the_server_is_back(server, client, waits):
    server.script = [AWAY, CUT, BUSY, BUSY, DONE]
    client._transport._answered = True
    assert client.start_audit(AUDIT, key="build-1").job_id == "a" * 32
    assert {key for _, _, key, _ in server.asked} == {"build-1"}
    assert len({body for *_, body in server.asked}) == 1
    assert waits == [5, 1.0, 1, 1], "as long as the server says, else ever longer"


def test_a_server_that_stays_away_is_given_up_after_a_minute_and_one_that_never_answered_after_seconds(server, waits):
    with Client(server.url, "aud_x", sleep=waits.append) as client:
        server.script = [AWAY] * 20
        with pytest.raises(StorageFailure):
            client.start_audit(AUDIT)
        assert sum(waits) == 60
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
    waits.clear()
    with Client(nobody, "aud_x", sleep=waits.append) as client:
        with pytest.raises(ServerFailure, match="could not be reached"):
            client.start_audit(AUDIT)
        assert waits == [0.5, 1.0, 2.0]


def test_an_earlier_request_that_is_worked_on_is_waited_for_longer(server, client, waits):
    server.script = [refused(409, "under_way", after="100")] * 20
    with pytest.raises(UnderWay):
        client.start_audit(AUDIT)
    assert sum(waits) == 900


def test_what_cannot_succeed_later_is_not_repeated(server, client, waits):
    server.script = [refused(422, "invalid_input", retryable=False)]
    with pytest.raises(InvalidInput):
        client.start_audit(AUDIT)
    assert waits == []


def upload_view(data, received, size):
    return (
        200,
        {
            "id": "c" * 32,
            "name": "m",
            "size": size,
            "sha256": hashlib.sha256(data).hexdigest(),
            "received": received,
            "complete": received == size,
            "created_at": "2030-01-01T00:00:00Z",
        },
        {},
    )


def test_an_upload_goes_on_from_what_the_server_has_however_often_it_breaks(server, client, tmp_path, waits):
    data = bytes(range(40))
    (tmp_path / "m").write_bytes(data)
    views = {at: upload_view(data, at, len(data)) for at in range(0, 41, 4)}
    server.script = [views[0]]
    for at in range(0, 40, 4):  # more breaks than tries, but each brings something
        server.script += [CUT, views[at + 4]]
    assert client.upload(tmp_path / "m").complete
    parts = [(path.rpartition("=")[2], body) for method, path, _, body in server.asked if method == "PUT"]
    assert parts == [(str(at), data[at : at + 4]) for at in range(0, 40, 4)]


def test_an_upload_of_which_nothing_arrives_is_given_up(server, client, tmp_path):
    data = bytes(8)
    (tmp_path / "m").write_bytes(data)
    view = upload_view(data, 0, len(data))
    server.script = [view, *[AWAY, view] * 4, AWAY]
    with pytest.raises(StorageFailure):
        client.upload(tmp_path / "m")
    assert server.script == []


PAGE = b"<!doctype html><title>Sign in</title>"
HTML = {"Content-Type": "text/html"}


def test_a_proxy_that_takes_no_body_of_this_size_is_said_to_be_one(server, client, waits):
    server.script = [(413, PAGE, HTML)]
    with pytest.raises(InvalidInput, match="a proxy refuses requests of this size"):
        client.waivers()
    assert not waits


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((200, PAGE, HTML), "it answered 200"),
        ((404, PAGE, HTML), "it answered 404"),
        ((302, b"", HTML | {"Location": "https://login.example"}), "leads to https://login.example"),
    ],
)
def test_a_page_of_something_else_is_no_auditor_and_is_not_asked_again(server, client, waits, answer, said):
    server.script = [answer]
    with pytest.raises(NoAuditor, match=r"no auditor answers at http://127\.0\.0\.1") as caught:
        client.me()
    assert said in str(caught.value)
    assert "address" in caught.value.remedy
    assert waits == []


def test_a_proxy_whose_server_is_away_is_asked_again(server, client, waits):
    client._transport._answered = True
    server.script = [(502, PAGE, HTML), (429, PAGE, HTML), DONE]
    assert client.start_audit(AUDIT).job_id == "a" * 32
    assert len(waits) == 2


@pytest.mark.parametrize("token", ["aud_x\n", " aud_x ", "\taud_x\r\n"])
def test_white_space_around_a_token_is_taken_off(server, token):
    server.script = [(200, [], {})]
    with Client(server.url, token) as client:
        client.pictures("a")
    assert server.signed == ["Bearer aud_x"]


@pytest.mark.parametrize("token", ["", "\n", "aud_sé", "aud_s\nX: s", "aud_s s", "aud_s\x00"])
def test_a_token_that_cannot_be_sent_is_refused_at_once_and_never_shown(server, waits, token):
    with pytest.raises(NotSignedIn, match="token") as caught:
        Client(server.url, token, sleep=waits.append)
    assert caught.value.exit_code is ExitCode.DENIED
    assert "aud_" not in caught.value.message + caught.value.remedy
    assert "AUDITOR_TOKEN" in caught.value.remedy
    assert "auditor login" in caught.value.remedy
    assert (server.signed, waits) == ([], [])


@pytest.mark.parametrize("header", [b"X-Secret aud_x", b"X-Secret\x01: aud_x"])
def test_what_is_said_of_a_broken_protocol_shows_no_header(header):
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer():
            connection, _ = listening.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(b"HTTP/1.1 200 OK\r\n" + header + b"\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        said = pytest.raises(ServerFailure, match="could not be reached: RemoteProtocolError")
        with Client(url, "aud_x") as client, said as caught:
            client.sign_in("a", "b" * 12)
    assert "aud_x" not in str(caught.value)


JOB = {"id": "a" * 32, "kind": "audit", "name": "m", "state": "queued", "created_at": "2030-01-01T00:00:00Z"}


@pytest.mark.parametrize("ask", ["cancel", "resume"])
def test_stopping_and_going_on_are_repeated_until_the_server_is_back(server, client, ask):
    server.script = [AWAY, (200, JOB, {})]
    assert getattr(client, ask)("a" * 32).id == "a" * 32
    assert len({key for *_, key, _ in server.asked}) == 1
    assert server.asked[0][2] is not None


def waiver_view(number):
    return {
        "id": f"w{number}",
        "finding": "attack:ppa",
        "model": "m",
        "reason": "known since May",
        "approver": "board",
        "created": "2030-01-01",
        "expires": "2030-02-01",
        "up_to": "high",
    }


def test_lists_are_read_to_their_end(server, client):
    parts = [[waiver_view(number) for number in range(start, start + 200)] for start in (0, 200)]
    server.script = [
        (200, {"items": parts[0], "next": "there"}, {}),
        (200, {"items": parts[1], "next": None}, {}),
    ]
    assert [waiver.id for waiver in client.waivers("m")] == [f"w{number}" for number in range(400)]
    assert ["after=there" in path for _, path, _, _ in server.asked] == [False, True]


def report_view(number):
    return {
        "report_id": f"{number:064}",
        "job_id": f"{number:032}",
        "unit_key": "finish",
        "kind": "audit",
        "name": "m",
        "digest": "d" * 64,
        "verdict": "pass",
        "level": "low",
        "has_pictures": False,
        "created_at": "2030-01-01T00:00:00Z",
    }


def test_a_list_stops_where_it_was_asked_to(server, client):
    server.script = [
        (200, {"items": [report_view(number) for number in range(200)], "next": "there"}, {}),
        (200, {"items": [report_view(number) for number in range(200, 400)], "next": "on"}, {}),
    ]
    assert len(client.report_entries(250)) == 250
    assert server.script == []


def test_a_file_name_that_is_not_one_line_is_refused_before_anything_is_sent(server, client, tmp_path):
    path = tmp_path / "my\tmodel.onnx"
    path.write_bytes(b"x")
    with pytest.raises(InvalidInput, match=r"my\\tmodel\.onnx.*name"):
        client.upload(path)
    assert server.asked == []


def test_a_repaired_model_that_is_not_there_leaves_the_file_of_before(server, client, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"precious")
    server.script = [refused(404, "not_found", retryable=False), (200, b"repaired", {})]
    with pytest.raises(NotFound):
        client.repaired_model("a" * 32, path)
    assert path.read_bytes() == b"precious"
    client.repaired_model("a" * 32, path)
    assert path.read_bytes() == b"repaired"
    assert list(tmp_path.iterdir()) == [path]


def test_the_example_of_the_client_calls_what_there_is():
    called = set(re.findall(r"client\.(\w+)\(", inspect.getdoc(auditor.client)))
    assert called
    assert called <= set(dir(Client))
