"""What is sensitive goes on its day, and not a day earlier; what someone else still needs stays."""

import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from auditor.contracts.jobs import JobKind, JobState, UnitResult, UnitSpec
from auditor.contracts.manifest import Manifest
from auditor.contracts.people import Role, Scope
from auditor.data.cache import ContentCache
from auditor.errors import Conflict, StorageFailure
from auditor.service.accounts import Answer, DataSet, Team, Upload, User
from auditor.service.people import Identity
from auditor.service.records import Job, StoredReport, Submission, Unit
from auditor.service.retention import Retention
from auditor.service.uploads import Uploads
from auditor.testing.database import InMemoryTransactions
from auditor.testing.ports import InMemoryStore, SetClock
from auditor.testing.reports import sample_target

OURS, THEIRS = "a" * 32, "b" * 32


class House:
    """Two teams with an audit each; what is stored under `shared` belongs to both."""

    def __init__(self, tmp_path, state=JobState.DONE):
        self.database, self.store, self.clock = InMemoryTransactions(), InMemoryStore(), SetClock()
        self.folder = tmp_path / "uploads"
        self.folder.mkdir()
        self.caches = tmp_path / "cache"
        self.retention = Retention(
            database=self.database, store=self.store, clock=self.clock, folder=tmp_path / "uploads", caches=self.caches
        )
        for team in (OURS, THEIRS):
            self.add(team, state)

    def put(self, text):
        return self.store.put_bytes(text.encode())

    def add(self, team, state):
        now = self.clock.now()
        inputs = {"model": self.put(f"model {team}"), "private.npz": self.put("shared private")}
        outputs = {"fit.npz": self.put(f"fit {team}"), "recon.npz": self.put(f"recon {team}")}
        gallery = self.put(f"gallery {team}")
        manifest = Manifest.model_validate({"model": {"name": "m"}})
        job = Job(team, JobKind.AUDIT, "m", team, "f" * 64, {}, now, state=state, finished_at=now, team_id=team)
        with self.database() as tx:
            tx.teams.add(Team(team, now, team))
            tx.submissions.add(Submission(team, "m", now, manifest, sample_target(), inputs, team))
            tx.jobs.add(job)
            unit = Unit(team, team, 0, UnitSpec(kind="finish", key="finish", inputs=inputs))
            tx.units.add([unit])
            claimed = tx.units.claim(team, worker="w", now=now, lease_until=now)
            tx.units.complete(claimed, UnitResult(outputs=outputs | {"gallery.json": gallery}))
            tx.reports.add(
                StoredReport(
                    "c" * 64, team, "finish", JobKind.AUDIT, "m", self.put("report"), gallery, "fail", "high", now
                )
            )

    def keep(self, team, **days):
        with self.database() as tx:
            tx.teams.change(team, **days)

    def left(self):
        return {data.decode() for data in self.store.blobs.values()}


@pytest.fixture
def house(tmp_path):
    return House(tmp_path)


def test_without_a_policy_everything_stays(house):
    before = house.left()
    house.clock.sleep(timedelta(days=10_000).total_seconds())
    assert house.retention.sweep() == 0
    assert house.left() == before


def test_pictures_go_on_their_day_and_the_report_stays(house):
    house.keep(OURS, pictures_days=7)
    before = house.left()
    house.clock.sleep(timedelta(days=7).total_seconds())
    assert house.retention.sweep() == 0
    house.clock.sleep(1)
    assert house.retention.sweep() == 2
    assert before - house.left() == {f"gallery {OURS}", f"recon {OURS}"}
    with house.database() as tx:
        assert tx.reports.find(OURS).gallery_digest is None
        assert tx.reports.find(THEIRS).gallery_digest is not None
        assert [(line.team_id, line.what) for line in tx.trail.page(9)] == [(OURS, "retention.sweep")]
    assert house.retention.sweep() == 0


def test_pictures_of_the_audits_of_a_repair_go_with_its_job(house):
    """The audit after a repair is a report of the repair's job, with pictures of its own."""
    house.keep(OURS, pictures_days=7)
    with house.database() as tx:
        unit = Unit("after", OURS, 1, UnitSpec(kind="finish", key="after/finish"))
        tx.units.add([unit])
        claimed = tx.units.claim("after", worker="w", now=house.clock.now(), lease_until=house.clock.now())
        gallery = house.put("gallery after")
        tx.units.complete(claimed, UnitResult(outputs={"gallery.json": gallery}))
        entry = replace(tx.reports.find(OURS), report_id="d" * 64, unit_key="after/finish", gallery_digest=gallery)
        tx.reports.add(entry)
    house.clock.sleep(timedelta(days=7).total_seconds())
    assert house.retention.sweep() == 0
    house.clock.sleep(1)
    assert house.retention.sweep() == 3
    assert not {f"gallery {OURS}", "gallery after"} & house.left()
    with house.database() as tx:
        assert [row.gallery_digest for row in tx.reports.of_job(OURS)] == [None, None]


def test_what_attacks_rebuilt_goes_although_later_units_read_it_under_another_name(house):
    house.keep(OURS, pictures_days=7)
    recon = house.store.put_bytes(f"recon {OURS}".encode())
    with house.database() as tx:
        tx.units.add([Unit("k", OURS, 1, UnitSpec(kind="finish", key="k2", inputs={"attack-0-1.recon.npz": recon}))])
    house.clock.sleep(timedelta(days=8).total_seconds())
    house.retention.sweep()
    assert not {f"gallery {OURS}", f"recon {OURS}"} & house.left()


def test_the_evaluator_of_an_audit_goes_with_the_images_it_was_trained_on(house):
    evaluator, judge = house.put("evaluator"), house.put("judge")
    with house.database() as tx:
        tx.units.add([Unit("prepare", OURS, 1, UnitSpec(kind="prepare", key="prepare"))])
        claimed = tx.units.claim("prepare", worker="w", now=house.clock.now(), lease_until=house.clock.now())
        left = {"evaluator.safetensors": evaluator, "judge.safetensors": judge}
        tx.units.complete(claimed, UnitResult(outputs=left))
        tx.units.add([Unit("later", OURS, 2, UnitSpec(kind="finish", key="k2", inputs=left))])
    house.keep(OURS, private_data_days=7)
    house.clock.sleep(timedelta(days=8).total_seconds())
    house.retention.sweep()
    assert {"evaluator", "judge"} & house.left() == {"judge"}, "a judge knows public images only"


def test_one_sweep_forgets_however_much_there_is(house):
    now = house.clock.now()
    with house.database() as tx:
        for number in range(450):
            tx.answers.add(Answer(f"{number:064d}", now, OURS, "d"))
            tx.uploads.add(Upload(f"{number:032d}", now, OURS, "x", 8, f"{number:064d}", "ann", 3, complete=False))
    house.clock.sleep(timedelta(days=3).total_seconds())
    house.retention.sweep()
    with house.database() as tx:
        assert (tx.answers.page(9), tx.uploads.page(9)) == ([], [])


def test_what_two_teams_share_stays_until_both_let_go(house):
    house.keep(OURS, private_data_days=1)
    house.clock.sleep(timedelta(days=2).total_seconds())
    assert house.retention.sweep() == 1
    assert "shared private" in house.left()
    assert f"fit {OURS}" not in house.left()
    house.keep(THEIRS, private_data_days=1)
    assert house.retention.sweep() == 2
    assert "shared private" not in house.left()


def test_data_of_a_job_that_still_runs_is_not_touched(tmp_path):
    house = House(tmp_path, JobState.RUNNING)
    house.keep(OURS, private_data_days=1, pictures_days=1)
    house.clock.sleep(timedelta(days=2).total_seconds())
    assert house.retention.sweep() == 0


def test_uploads_and_data_sets_are_private_data_too(house):
    now, digest = house.clock.now(), house.put("uploaded")
    upload = Upload("d" * 32, now, OURS, "x", 8, digest, "ann", 8, complete=True)
    with house.database() as tx:
        tx.uploads.add(upload)
        tx.data_sets.add(DataSet("e" * 32, now, OURS, "x", {"data.npz": digest}, 8, "ann"))
        tx.uploads.add(replace(upload, id="f" * 32, received=3, complete=False))
    (house.folder / f"{'f' * 32}.part").write_bytes(b"abc")
    house.clock.sleep(timedelta(days=3).total_seconds())
    house.retention.sweep()
    with house.database() as tx:
        assert [row.id for row in tx.uploads.page(9)] == ["d" * 32], "what was never completed is given up"
    assert not list(house.folder.iterdir())
    house.keep(OURS, private_data_days=1)
    house.retention.sweep()
    assert "uploaded" not in house.left()
    with house.database() as tx:
        assert (tx.uploads.page(9), tx.data_sets.page(9)) == ([], [])


def test_what_a_store_that_failed_kept_goes_with_the_next_sweep(house, monkeypatch):
    now, digests = house.clock.now(), [house.put("first"), house.put("second")]
    with house.database() as tx:
        for number, digest in enumerate(digests):
            tx.uploads.add(Upload(f"{number}" * 32, now, OURS, "x", 8, digest, "ann", 8, complete=True))
            tx.data_sets.add(DataSet(f"{number}" * 32, now, OURS, f"set-{number}", {"data.npz": digest}, 8, "ann"))
    house.keep(OURS, private_data_days=1)
    house.clock.sleep(timedelta(days=3).total_seconds())
    delete = house.store.delete

    def fail(digest, before):
        if digest == digests[1]:
            raise StorageFailure("an artifact could not be deleted: the bucket answered 503")
        return delete(digest, before)

    monkeypatch.setattr(house.store, "delete", fail)
    with pytest.raises(StorageFailure):
        house.retention.sweep()
    with house.database() as tx:
        assert "set-1" in [row.name for row in tx.data_sets.page(9)], "its data is still there"
    monkeypatch.undo()
    house.retention.sweep()
    assert not {"first", "second"} & house.left()
    with house.database() as tx:
        assert (tx.uploads.page(9), tx.data_sets.page(9)) == ([], [])


def test_an_upload_that_ends_during_a_sweep_is_not_forgotten(house, monkeypatch):
    now, digest = house.clock.now(), house.put("other")
    upload = Upload("d" * 32, now, OURS, "x", 8, digest, "ann", 3, complete=False)
    with house.database() as tx:
        tx.uploads.add(upload)
    house.keep(OURS, private_data_days=1)
    house.clock.sleep(timedelta(days=1, hours=1).total_seconds())
    delete = house.store.delete

    def end(digest, before):
        with house.database() as tx:
            tx.uploads.change(upload.id, complete=True)
        return delete(digest, before)

    monkeypatch.setattr(house.store, "delete", end)
    house.retention.sweep()
    with house.database() as tx:
        assert tx.uploads.get(upload.id).complete


def test_a_data_set_named_during_a_sweep_does_not_lose_its_bytes(house, monkeypatch):
    """Either it keeps them, or it is refused."""
    now, digests = house.clock.now(), [house.put("old"), house.put("young")]
    ann = User("9" * 32, now, OURS, "ann", Role.ADMIN)
    with house.database() as tx:
        tx.uploads.add(Upload("0" * 32, now, OURS, "x", 8, digests[0], "ann", 8, complete=True))
        tx.uploads.add(Upload("1" * 32, now + timedelta(days=3), OURS, "x", 8, digests[1], "ann", 8, complete=True))
        me = Identity(ann, tx.teams.get(OURS), frozenset(Scope), None, "k")
    uploads = Uploads(
        database=house.database, store=house.store, clock=house.clock, me=me, folder=house.folder, max_bytes=9
    )
    house.keep(OURS, private_data_days=1)
    house.clock.sleep(timedelta(days=3).total_seconds())
    delete = house.store.delete

    def name_meanwhile(digest, before):
        monkeypatch.undo()
        uploads.name_data_set("young", "1" * 32)
        with pytest.raises(Conflict, match="retention deletes this upload"):
            uploads.name_data_set("old", "0" * 32)
        return delete(digest, before)

    monkeypatch.setattr(house.store, "delete", name_meanwhile)
    house.retention.sweep()
    assert {"old", "young"} & house.left() == {"young"}
    with house.database() as tx:
        assert [row.name for row in tx.data_sets.page(9)] == ["young"]


def test_an_upload_whose_time_is_over_takes_no_model_from_a_job(house):
    """Neither from the team's own job, nor from one of a team that has no retention and the same bytes."""
    now = house.clock.now()
    digests = {team: house.put(f"model {team}") for team in (OURS, THEIRS)}
    with house.database() as tx:
        for number, digest in enumerate(digests.values()):
            tx.uploads.add(Upload(f"{number}" * 32, now, OURS, "m.onnx", 8, digest, "ann", 8, complete=True))
    house.keep(OURS, private_data_days=1)
    house.clock.sleep(timedelta(days=3).total_seconds())
    house.retention.sweep()
    assert {f"model {OURS}", f"model {THEIRS}"} <= house.left()
    with house.database() as tx:
        assert not tx.uploads.page(9)


def test_the_file_that_a_killed_process_left_of_a_complete_upload_goes(house):
    left, new = house.folder / f"{'a' * 32}.part", house.folder / f"{'b' * 32}.part"
    for path, days in ((left, 3), (new, 1)):
        path.write_bytes(b"private images")
        then = (house.clock.now() - timedelta(days=days)).timestamp()
        os.utime(path, (then, then))
    house.retention.sweep()
    assert (left.exists(), new.exists()) == (False, True)


def test_what_was_learned_from_private_images_leaves_the_cache_too(house):
    def build(folder, _unfinished):
        (folder / "weights").write_bytes(b"of private images")

    cache = ContentCache(house.caches / OURS)
    evaluator, _ = cache.load_or_build("evaluator", {}, build)
    prior, _ = cache.load_or_build("prior", {}, build)
    others, _ = ContentCache(house.caches / THEIRS).load_or_build("evaluator", {}, build)
    made = datetime.fromtimestamp(evaluator.stat().st_mtime, UTC)
    house.retention.sweep()
    assert evaluator.exists(), "nobody asked for it"
    house.keep(OURS, private_data_days=7)
    house.keep(THEIRS, private_data_days=30)
    house.clock.sleep((made + timedelta(days=6) - house.clock.now()).total_seconds())
    house.retention.sweep()
    assert evaluator.exists()
    house.clock.sleep(timedelta(days=2).total_seconds())
    house.retention.sweep()
    assert not evaluator.exists()
    assert prior.exists(), "it knows public images only"
    assert others.exists(), "each team's own days count"
    assert cache.load_or_build("evaluator", {}, build)[1] is False
