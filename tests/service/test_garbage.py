"""Artifacts that nothing refers to are deleted, and no others."""

import json
import os
from datetime import UTC, datetime, timedelta

import pytest

from auditor.adapters.content_store import ContentStore
from auditor.adapters.local_blobs import LocalBlobs
from auditor.contracts.base import digest_of
from auditor.contracts.jobs import JobKind, UnitSpec
from auditor.contracts.manifest import Manifest
from auditor.db.engine import build_engine
from auditor.db.migrate import upgrade
from auditor.db.unit_of_work import SqlTransactions
from auditor.errors import InvalidInput
from auditor.service.accounts import Answer, DataSet, Trail, Upload
from auditor.service.garbage import Garbage
from auditor.service.records import LOCAL_TEAM, Job, StoredReport, Submission, Unit
from auditor.testing.database import InMemoryTransactions
from auditor.testing.ports import InMemoryStore, SetClock
from auditor.testing.reports import sample_target

NOW = datetime(2030, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture(params=["memory", "sqlite", pytest.param("postgres", marks=pytest.mark.integration)])
def transactions(request):
    if request.param == "memory":
        yield InMemoryTransactions()
        return
    engine = build_engine(request.getfixturevalue(f"{request.param}_url"))
    upgrade(engine)
    yield SqlTransactions(engine)
    engine.dispose()


def fill(transactions, digests):
    """One submission, job, unit and report, which refer to these artifacts in turn."""
    model, plan, private, pictures, text = digests
    manifest = Manifest.model_validate({"model": {"name": "faces"}})
    submission = Submission("5" * 32, "faces", NOW, manifest, sample_target(), {"model": model})
    job = Job("a" * 32, JobKind.AUDIT, "faces", submission.id, "f" * 64, {"inputs": {"plan.json": plan}}, NOW)
    spec = UnitSpec(kind="prepare", key="prepare", inputs={"private.npz": private})
    report = StoredReport("e" * 64, job.id, "finish", JobKind.AUDIT, "faces", text, pictures, "pass", "low", NOW)
    with transactions() as tx:
        tx.submissions.add(submission)
        tx.jobs.add(job)
        tx.units.add([Unit("b" * 32, job.id, 0, spec)])
        tx.reports.add(report)


def test_what_anything_refers_to_stays(transactions):
    store = InMemoryStore()
    kept = [store.put_bytes(f"kept {number}".encode()) for number in range(5)]
    waste = store.put_bytes(b"waste")
    fill(transactions, kept)
    garbage = Garbage(store=store, transactions=transactions, clock=SetClock())
    counted = garbage.collect(DAY, dry_run=True)
    assert (counted.kept, counted.deleted, counted.freed_bytes) == (5, 1, len(b"waste"))
    assert store.exists(waste)
    assert garbage.collect(DAY) == counted
    assert sorted(store.blobs) == sorted(kept)
    assert garbage.collect(DAY).deleted == 0


def test_what_somebody_deleted_goes_although_log_and_answers_tell_of_it(transactions):
    store = InMemoryStore()
    digests = [store.put_bytes(f"private {number}".encode()) for number in range(2)]
    upload = Upload("d" * 32, NOW, LOCAL_TEAM, "x.npz", 9, digests[0], "ann", 9, complete=True)
    data_set = DataSet("e" * 32, NOW, LOCAL_TEAM, "people", {"data.npz": digests[1]}, 9, "ann")
    told = {"sha256": digests[0], "other": digests[1]}
    with transactions() as tx:
        tx.uploads.add(upload)
        tx.data_sets.add(data_set)
        tx.trail.add(Trail("c" * 32, NOW, LOCAL_TEAM, "ann", "upload.complete", upload.id, told))
        tx.answers.add(Answer("f" * 64, NOW, LOCAL_TEAM, "0" * 64, 201, json.dumps(told)))
    garbage = Garbage(store=store, transactions=transactions, clock=SetClock())
    assert garbage.collect(DAY).deleted == 0
    with transactions() as tx:
        tx.data_sets.remove(data_set.id)
    assert (garbage.collect(DAY).deleted, list(store.blobs)) == (1, digests[:1])
    with transactions() as tx:
        tx.uploads.remove(upload.id)
    assert (garbage.collect(DAY).deleted, list(store.blobs)) == (1, [])


def test_what_is_young_stays(tmp_path):
    store = ContentStore(LocalBlobs(tmp_path))
    digest = store.put_bytes(b"of a submission that is being stored")
    clock = SetClock(datetime.now(UTC))
    garbage = Garbage(store=store, transactions=InMemoryTransactions(), clock=clock)
    assert garbage.collect(DAY).deleted == 0
    clock.sleep(DAY.total_seconds() + 60)
    assert garbage.collect(DAY).deleted == 1
    assert not store.exists(digest)
    assert digest == digest_of(b"of a submission that is being stored")


def test_too_young_an_age_is_refused():
    garbage = Garbage(store=InMemoryStore(), transactions=InMemoryTransactions(), clock=SetClock())
    with pytest.raises(InvalidInput, match="2:00:00") as caught:
        garbage.collect(timedelta(hours=1))
    assert "--older-than 2h" in caught.value.remedy


def test_what_is_stored_again_meanwhile_stays(tmp_path):
    store, transactions = ContentStore(LocalBlobs(tmp_path)), InMemoryTransactions()
    digest = store.put_bytes(b"old, and submitted again")
    (path,) = (path for path in tmp_path.rglob("*") if path.is_file())
    os.utime(path, (0, 0))

    def submits_again(_work):
        store.put_bytes(b"old, and submitted again")

    transactions.before_commit = submits_again  # while the references are read
    garbage = Garbage(store=store, transactions=transactions, clock=SetClock(datetime.now(UTC)))
    garbage.collect(DAY)
    assert store.exists(digest)


def test_what_killed_writers_left_goes_too_but_not_in_a_dry_run(transactions, tmp_path):
    store = ContentStore(LocalBlobs(tmp_path / "artifacts"))
    store.put_bytes(b"waste")
    left = tmp_path / "artifacts" / "tmp" / "left"
    left.write_bytes(b"private images")
    os.utime(left, (0, 0))
    garbage = Garbage(store=store, transactions=transactions, clock=SetClock())
    garbage.collect(DAY, dry_run=True)
    assert left.exists()
    garbage.collect(DAY)
    assert not left.exists()
