"""Files of any size, in parts, checked: what comes is what was announced, or nothing."""

import hashlib
import socket
from urllib.parse import urlsplit

import pytest
from api_house import good, problem

from auditor.api.server import Caller
from auditor.contracts.people import Role
from auditor.errors import Conflict, InvalidInput, NotFound
from auditor.service import uploads
from auditor.service.records import LOCAL_TEAM
from auditor.testing.handlers import wait_for

DATA = bytes(range(256)) * 100


def announced(data, **changes):
    return {"name": "m.onnx", "size": len(data), "sha256": hashlib.sha256(data).hexdigest()} | changes


@pytest.fixture
def client(house):
    with house.client(Role.SUBMITTER) as client:
        yield client


def test_a_file_comes_in_parts_and_is_stored_under_its_hash(house, client):
    upload = good(client.post("/uploads", json=announced(DATA)))["id"]
    for start in range(0, len(DATA), 10_000):
        part = good(client.put(f"/uploads/{upload}", params={"offset": start}, content=DATA[start : start + 10_000]))
        assert part["received"] == min(start + 10_000, len(DATA))
    assert part["complete"]
    assert house.services.store.get_bytes(announced(DATA)["sha256"]) == DATA
    assert not list((house.settings.home / "uploads").glob(f"{upload}*")), "the parts are gone"
    problem(client.put(f"/uploads/{upload}", params={"offset": 0}, content=b"x"), 409, "conflict")


def test_a_part_that_does_not_follow_is_refused_with_where_to_go_on(client):
    upload = good(client.post("/uploads", json=announced(DATA)))["id"]
    good(client.put(f"/uploads/{upload}", params={"offset": 0}, content=DATA[:100]))
    for offset in (0, 99, 101):
        body = problem(client.put(f"/uploads/{upload}", params={"offset": offset}, content=b"x"), 409, "conflict")
        assert "100" in body["detail"]
    assert good(client.get(f"/uploads/{upload}"))["received"] == 100


def test_of_two_whole_files_at_once_the_second_does_not_meet_what_the_first_took_away(house, client):
    """Both are written to the same place; the first is found wrong and thrown away before the second has ended."""
    upload = good(client.post("/uploads", json=announced(DATA)))["id"]
    sender = Caller(
        house.app.state.server, house.app.state.server.people.of_token(house.tokens[LOCAL_TEAM, Role.SUBMITTER])
    ).uploads
    parts = [sender.open_part(upload, 0) for _ in range(2)]
    for part, data in zip(parts, (DATA, DATA[::-1]), strict=True):
        part.write(data)
    with pytest.raises(InvalidInput):
        sender.close_part(upload, 0, parts[0])
    with pytest.raises(Conflict):
        sender.close_part(upload, 0, parts[1])
    assert good(client.get(f"/uploads/{upload}"))["received"] == 0
    assert good(client.put(f"/uploads/{upload}", params={"offset": 0}, content=DATA))["complete"]


@pytest.mark.parametrize("meets", ["digest_of_file", "put_file"])
def test_of_two_parts_that_finish_a_file_both_are_answered_that_it_is_complete(house, client, monkeypatch, meets):
    """A line breaks while the file is checked or stored, and the client asks again with the empty rest."""
    upload = good(client.post("/uploads", json=announced(DATA)))["id"]
    place, answers = {"digest_of_file": uploads, "put_file": type(house.services.store)}[meets], []
    real = getattr(place, meets)

    def ask_again(*args):
        monkeypatch.undo()
        answers.append(good(client.put(f"/uploads/{upload}", params={"offset": len(DATA)}, content=b"")))
        return real(*args)

    monkeypatch.setattr(place, meets, ask_again)
    with house.client(Role.SUBMITTER) as first:
        answers.append(good(first.put(f"/uploads/{upload}", params={"offset": 0}, content=DATA)))
    assert [answer["complete"] for answer in answers] == [True, True]


def test_what_came_before_a_broken_connection_counts(house, client):
    upload = good(client.post("/uploads", json=announced(DATA)))["id"]
    address = urlsplit(house.url)
    with socket.create_connection((address.hostname, address.port)) as broken:
        head = (
            f"PUT /api/v1/uploads/{upload}?offset=0 HTTP/1.1\r\nHost: x\r\nContent-Length: {len(DATA)}\r\n"
            f"Authorization: {client.headers['authorization']}\r\n\r\n"
        )
        broken.sendall(head.encode() + DATA[:5000])
        path = house.settings.home / "uploads" / f"{upload}.part"
        wait_for(lambda: path.exists())
    wait_for(lambda: good(client.get(f"/uploads/{upload}"))["received"] > 0)
    received = good(client.get(f"/uploads/{upload}"))["received"]
    assert received <= 5000
    rest = good(client.put(f"/uploads/{upload}", params={"offset": received}, content=DATA[received:]))
    assert rest["complete"]


def test_other_bytes_than_announced_are_thrown_away(house, client):
    upload = good(client.post("/uploads", json=announced(DATA, sha256="0" * 64)))["id"]
    body = problem(client.put(f"/uploads/{upload}", params={"offset": 0}, content=DATA), 422, "invalid_input")
    assert hashlib.sha256(DATA).hexdigest() in body["detail"]
    assert good(client.get(f"/uploads/{upload}"))["received"] == 0
    with pytest.raises(NotFound):
        house.services.store.get_bytes("0" * 64)


def test_more_bytes_than_announced_are_refused_as_they_come(house, client):
    upload = good(client.post("/uploads", json=announced(b"abc")))["id"]

    longer = (b"x" * 65536 for _ in range(200))
    problem(client.put(f"/uploads/{upload}", params={"offset": 0}, content=longer), 413, "too_large")
    assert good(client.get(f"/uploads/{upload}"))["received"] == 0


def test_a_file_over_the_limit_is_refused_before_it_is_sent(house, client):
    limit = house.settings.max_upload_bytes
    problem(client.post("/uploads", json=announced(b"", size=limit + 1)), 413, "too_large")
    good(client.post("/uploads", json=announced(b"", size=limit)))


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "..\\..\\x", "a" * 200, "con", "ü/ß"])
def test_a_name_decides_nothing_about_where_a_file_lies(house, client, name):
    upload = good(client.post("/uploads", json=announced(DATA, name=name)))["id"]
    good(client.put(f"/uploads/{upload}", params={"offset": 0}, content=DATA[:10]))
    assert {path.name for path in (house.settings.home / "uploads").iterdir()} >= {f"{upload}.part"}


def test_a_long_body_is_refused_where_it_is_not_streamed(client):
    headers = {"content-type": "application/json"}
    unannounced = (b" " * 65536 for _ in range(200))
    problem(client.post("/uploads", content=unannounced, headers=headers), 413, "too_large")
    problem(client.post("/uploads", content=b" " * (64 * 65536), headers=headers), 413, "too_large")


def test_a_data_set_is_a_finished_upload_with_a_name(house, client):
    upload = good(client.post("/uploads", json=announced(DATA)))["id"]
    problem(client.post("/data-sets", json={"name": "badges", "upload": upload}), 409, "conflict")
    good(client.put(f"/uploads/{upload}", params={"offset": 0}, content=DATA))
    made = good(client.post("/data-sets", json={"name": "badges", "upload": upload}))
    assert (made["sha256"], made["size"]) == (announced(DATA)["sha256"], len(DATA))
    assert (
        "already"
        in problem(client.post("/data-sets", json={"name": "badges", "upload": upload}), 409, "conflict")["detail"]
    )
    good(client.delete(f"/uploads/{upload}"))
    assert good(client.get("/data-sets/badges"))["created_by"] == "submitter-l"
