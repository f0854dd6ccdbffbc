"""Whether a server can accept work, as load balancers ask it."""

import asyncio
import threading
import time

import pytest
from api_house import good

from auditor.api.examples import ANSWERS
from auditor.api.readiness import Readiness, looks_of
from auditor.errors import StorageAway, StorageFailure

AWAY = "an artifact could not be read: EndpointConnectionError"


def test_database_and_store_are_asked_as_the_example_says(house):
    with house.client() as client:
        assert good(client.get("/ready")) == ANSWERS["GET", "/ready"]


def test_a_store_that_is_away_is_named(house, monkeypatch):
    def away(_digest):
        raise StorageAway(AWAY)

    monkeypatch.setattr(house.services.store, "get_bytes", away)
    with house.client() as client:
        answer = client.get("/ready")
        assert answer.status_code == 503
        assert answer.json() == {"status": "not ready", "checks": {"database": "ok", "store": AWAY}}
        monkeypatch.undo()
        assert good(client.get("/ready"))["status"] == "ok"


def test_a_store_that_does_not_answer_is_told_within_seconds(house, monkeypatch):
    back = threading.Event()
    monkeypatch.setattr(house.services.store, "get_bytes", lambda _digest: back.wait(60))
    with house.client() as client:
        started = time.monotonic()
        answer = client.get("/ready")
        assert time.monotonic() - started < 10
        assert answer.status_code == 503
        assert answer.json()["checks"] == {"database": "ok", "store": "no answer within 3 s"}
        assert good(client.get("/health"))["status"] == "ok"
    back.set()


def test_what_does_not_answer_is_asked_once_however_often_it_is_probed():
    back, asked = threading.Event(), []

    def hangs():
        asked.append(1)
        back.wait(60)

    def broken():
        raise ZeroDivisionError

    def away():
        raise StorageFailure("the database could not be used")

    readiness = Readiness({"store": hangs, "database": away, "other": broken}, patience_s=0.05)
    said = {
        "store": "no answer within 0.05 s",
        "database": "the database could not be used",
        "other": "cannot be used; the log says why",
    }
    for _ in range(5):
        assert asyncio.run(readiness.ask()) == said
    assert len(asked) == 1
    back.set()
    while asyncio.run(readiness.ask())["store"] != "ok":
        time.sleep(0.01)


def test_a_folder_that_cannot_be_read_is_no_store(house, tmp_path, monkeypatch):
    (tmp_path / "00").write_text("where a folder should be")
    monkeypatch.setattr(house.services.store._blobs, "_root", tmp_path)
    with pytest.raises(StorageFailure):
        looks_of(house.services)["store"]()
