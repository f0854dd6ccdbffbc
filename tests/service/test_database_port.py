"""One contract for the database port, kept by the in-memory, the SQLite and the PostgreSQL implementation."""

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from auditor.contracts.jobs import Failed, JobKind, JobState, Progress, UnitResult, UnitSpec, UnitState
from auditor.contracts.manifest import Manifest
from auditor.db.engine import build_engine
from auditor.db.migrate import upgrade
from auditor.db.unit_of_work import SqlTransactions
from auditor.errors import NotFound, StorageFailure
from auditor.service.records import LOCAL_TEAM, Job, StoredReport, Submission, Unit
from auditor.testing.database import InMemoryTransactions
from auditor.testing.reports import sample_target

NOW = datetime(2030, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(minutes=1)
SUBMISSION = Submission(
    id="5" * 32,
    name="faces",
    created_at=NOW,
    manifest=Manifest.model_validate({"model": {"name": "faces"}}),
    target=sample_target(),
    inputs={"model": "a" * 64},
)
JOB = Job(
    id="abcd" + "0" * 28,
    kind=JobKind.AUDIT,
    name="faces",
    submission_id=SUBMISSION.id,
    fingerprint="f" * 64,
    payload={"plan": {"x": [1, 2.5, None, "ü"]}},
    created_at=NOW,
)
FAILED = Failed(code="boom", problems=("one", "two"), remedy="r")


def unit(number, job_id=JOB.id, key=None):
    spec = UnitSpec(kind="attack", key=key or f"attack/{number}", params={"n": number}, inputs={"model": "a" * 64})
    return Unit(id=f"{number:032x}", job_id=job_id, position=number, spec=spec)


def report(number, *, job_id=JOB.id, report_id=None, key="finish"):
    return StoredReport(
        report_id=report_id or f"{number:064x}",
        job_id=job_id,
        unit_key=key,
        kind=JobKind.AUDIT,
        name="faces",
        digest="d" * 64,
        gallery_digest=None,
        verdict="fail",
        level="high",
        created_at=NOW + timedelta(seconds=number),
    )


@pytest.fixture(params=["memory", "sqlite", pytest.param("postgres", marks=pytest.mark.integration)])
def transactions(request):
    if request.param == "memory":
        yield InMemoryTransactions()
        return
    engine = build_engine(request.getfixturevalue(f"{request.param}_url"))
    upgrade(engine)
    yield SqlTransactions(engine)
    engine.dispose()


@pytest.fixture
def filled(transactions):
    with transactions() as tx:
        tx.submissions.add(SUBMISSION)
        tx.jobs.add(JOB)
        tx.units.add([unit(1), unit(2)])
    return transactions


def claim(tx, number=1, *, now=NOW, until=LATER):
    return tx.units.claim(f"{number:032x}", worker="w", now=now, lease_until=until)


def test_records_come_back_as_they_went_in(filled):
    with filled() as tx:
        assert tx.submissions.get(SUBMISSION.id) == SUBMISSION
        assert tx.jobs.get(JOB.id) == JOB
        assert tx.jobs.get(JOB.id, lock=True) == JOB
        assert list(tx.units.of_job(JOB.id)) == [unit(1), unit(2)]
        assert tx.units.get(unit(2).id) == unit(2)


def test_a_block_that_raises_changes_nothing(filled):
    def change_much_and_raise():
        with filled() as tx:
            tx.jobs.set_state(JOB.id, JobState.RUNNING, error=None, finished_at=None)
            tx.units.add([unit(3)])
            tx.outbox.add([unit(1).id])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        change_much_and_raise()
    with filled() as tx:
        assert tx.jobs.get(JOB.id).state is JobState.QUEUED
        assert len(tx.units.of_job(JOB.id)) == 2
        assert list(tx.outbox.pending()) == []


def test_a_job_is_found_by_the_start_of_its_id_while_that_is_unique(filled):
    other = replace(JOB, id="abce" + "1" * 28, created_at=LATER)
    with filled() as tx:
        tx.jobs.add(other)
        assert tx.jobs.get("abcd") == JOB
        assert tx.jobs.get("abce1") == other
        for reference in ("abc", "", "%", "ffff", "abcd_"):
            with pytest.raises(NotFound):
                tx.jobs.get(reference)


def test_an_ambiguous_start_of_an_id_is_refused(filled):
    with filled() as tx:
        tx.jobs.add(replace(JOB, id="abcd" + "1" * 28))
        with pytest.raises(NotFound, match="more than one"):
            tx.jobs.get("abcd")


def test_jobs_are_listed_newest_first_and_found_by_their_work(filled):
    newer = replace(JOB, id="1" * 32, created_at=LATER)
    other = replace(JOB, id="2" * 32, fingerprint="e" * 64, created_at=LATER + timedelta(1))
    with filled() as tx:
        tx.jobs.add(newer)
        tx.jobs.add(other)
        assert [job.id for job in tx.jobs.latest(2)] == [other.id, newer.id]
        assert tx.jobs.with_fingerprint("f" * 64, LOCAL_TEAM) == newer
        assert tx.jobs.with_fingerprint("0" * 64, LOCAL_TEAM) is None
        assert tx.jobs.with_fingerprint("f" * 64, "others") is None


def test_a_job_moves_and_keeps_why(filled):
    with filled() as tx:
        tx.jobs.set_cancel_requested(JOB.id, True)
        tx.jobs.set_state(JOB.id, JobState.FAILED, error=FAILED, finished_at=LATER)
    with filled() as tx:
        job = tx.jobs.get(JOB.id)
        assert job == replace(JOB, cancel_requested=True, state=JobState.FAILED, error=FAILED, finished_at=LATER)
        tx.jobs.set_state(JOB.id, JobState.QUEUED, error=None, finished_at=None)
    with filled() as tx:
        assert tx.jobs.get(JOB.id).error is None


def test_a_unit_can_be_claimed_once(filled):
    with filled() as tx:
        first = claim(tx)
        assert (first.state, first.attempt, first.worker) == (UnitState.RUNNING, 1, "w")
        assert (first.lease_until, first.heartbeat_at) == (LATER, NOW)
        assert claim(tx) is None
    with filled() as tx:
        assert claim(tx) is None
        assert tx.units.get(first.id) == first


def test_many_claimers_at_once_get_one_claim(filled):
    got, barrier = [], threading.Barrier(8)

    def race():
        barrier.wait()
        with filled() as tx:
            got.append(claim(tx))

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 8
    assert sum(unit is not None for unit in got) == 1


def test_two_units_that_end_together_see_each_other(filled):
    """Without the lock on the job both could see the other one still running, and nobody would create what follows."""
    with filled() as tx:
        claims = [claim(tx, 1), claim(tx, 2)]
    seen, barrier = [], threading.Barrier(2)

    def end(claimed):
        barrier.wait()
        with filled() as tx:
            tx.jobs.get(JOB.id, lock=True)
            assert tx.units.complete(claimed, UnitResult())
            seen.append(sum(unit.state is UnitState.DONE for unit in tx.units.of_job(JOB.id)))

    threads = [threading.Thread(target=end, args=(claimed,)) for claimed in claims]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == [1, 2]


def test_the_same_work_that_many_begin_at_once_is_one_job(filled):
    barrier = threading.Barrier(8)

    def begin(number):
        for work in range(5):
            barrier.wait()
            with filled() as tx:
                if tx.jobs.with_fingerprint(f"{work:064x}", LOCAL_TEAM) is None:
                    tx.jobs.add(replace(JOB, id=f"{work}{number:031x}", fingerprint=f"{work:064x}"))

    threads = [threading.Thread(target=begin, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with filled() as tx:
        assert len(tx.jobs.latest(99)) == 1 + 5


def test_only_the_holder_of_a_claim_can_settle_it(filled):
    result = UnitResult(value={"a": 1}, outputs={"o": "b" * 64}, seconds=2.5, peak_memory_bytes=7)
    with filled() as tx:
        old = claim(tx)
        assert tx.units.release(old)
        new = claim(tx)
        assert new.attempt == 2
        assert not tx.units.renew(old, now=NOW, lease_until=LATER, progress=None)
        assert not tx.units.complete(old, UnitResult())
        assert not tx.units.fail(old, FAILED)
        assert not tx.units.release(old)
        assert tx.units.complete(new, result)
        assert not tx.units.complete(new, result), "once"
        assert not tx.units.release(new), "done stays done"
    with filled() as tx:
        done = tx.units.get(new.id)
        assert (done.state, done.result, done.lease_until) == (UnitState.DONE, result, None)
        assert claim(tx) is None


def test_a_failed_unit_keeps_its_error_until_it_runs_again(filled):
    with filled() as tx:
        claimed = claim(tx)
        assert tx.units.fail(claimed, FAILED)
        failed = tx.units.get(claimed.id)
        assert (failed.state, failed.error) == (UnitState.FAILED, FAILED)
        assert claim(tx) is None
        assert tx.units.release(failed)
        again = claim(tx)
        assert (again.attempt, again.error) == (2, None)


def test_a_heartbeat_renews_the_lease_and_keeps_progress(filled):
    progress = Progress(stage="train", done=3, total=9)
    with filled() as tx:
        claimed = claim(tx)
        assert tx.units.renew(claimed, now=LATER, lease_until=LATER + timedelta(1), progress=progress)
    with filled() as tx:
        unit_ = tx.units.get(claimed.id)
        assert (unit_.heartbeat_at, unit_.lease_until, unit_.progress) == (LATER, LATER + timedelta(1), progress)


def test_only_running_units_with_a_lease_in_the_past_are_expired(filled):
    with filled() as tx:
        late, waiting = claim(tx, 1), claim(tx, 2, until=LATER + timedelta(hours=1))
        assert list(tx.units.expired(LATER)) == []
        assert [found.id for found in tx.units.expired(LATER + timedelta(seconds=1))] == [late.id]
        tx.units.release(late)
        assert list(tx.units.expired(LATER + timedelta(seconds=1))) == []
        assert waiting is not None


def test_units_that_finished_are_found_by_kind_and_key(filled):
    """Those of the oldest job first; another team's are not told."""
    with filled() as tx:
        for number, (kind, after) in enumerate([("repair", 1), ("repair", 2), ("audit", 3)]):
            job = replace(JOB, id=f"{number + 1:032x}", kind=JobKind(kind), created_at=NOW + timedelta(seconds=after))
            tx.jobs.add(job)
            keys = ("k0/train", "k1/train", "k2/finish")
            tx.units.add([unit(10 * (number + 1) + n, job.id, key) for n, key in enumerate(keys)])
            for n in range(3):
                claimed = tx.units.claim(f"{10 * (number + 1) + n:032x}", worker="w", now=NOW, lease_until=LATER)
                assert (number == 1 and n == 1) or tx.units.complete(claimed, UnitResult(outputs={}, value={}))

    def found(transactions, kind=JobKind.REPAIR, team_id=LOCAL_TEAM, key="/train"):
        with transactions() as tx:
            return [int(row.id, 16) for row in tx.units.finished(kind, team_id=team_id, key=key)]

    assert found(filled) == [10, 11, 20], "a unit that still runs has not finished"
    assert found(filled, kind=JobKind.AUDIT) == [30, 31]
    assert (found(filled, key="/finish"), found(filled, key="%")) == ([12, 22], [])
    assert found(filled.of_team(LOCAL_TEAM)) == [10, 11, 20]
    assert found(filled, team_id="another") == found(filled.of_team("another")) == []


def test_a_job_has_each_key_once(filled):
    with pytest.raises(StorageFailure), filled() as tx:
        tx.units.add([unit(9, key="attack/1")])


def test_the_outbox_remembers_what_is_not_sent(filled):
    with filled() as tx:
        tx.outbox.add([unit(1).id, unit(2).id])
    with filled() as tx:
        (first, sent), (_, waiting) = tx.outbox.pending()
        assert (sent, waiting) == (unit(1).id, unit(2).id)
        tx.outbox.remove(first)
    with filled() as tx:
        assert [unit_id for _, unit_id in tx.outbox.pending()] == [unit(2).id]


@pytest.mark.parametrize("known", [None, True, False])
def test_a_report_keeps_whether_its_policy_is_looser(filled, known):
    with filled() as tx:
        tx.reports.add(replace(report(1), looser_policy=known))
    with filled() as tx:
        (found,) = tx.reports.of_job(JOB.id)
    assert found.looser_policy is known


def test_reports_are_found_by_report_and_by_job(filled):
    second = replace(JOB, id="beef" + "0" * 28)
    with filled() as tx:
        tx.jobs.add(second)
        tx.reports.add(report(1, report_id="cafe" + "0" * 60))
        tx.reports.add(report(2, job_id=second.id, report_id="cafe" + "0" * 60))
        tx.reports.add(report(3, job_id=second.id, key="k2/finish", report_id="c0de" + "0" * 60))
    with filled() as tx:
        assert tx.reports.find("cafe").job_id == second.id, "the newest of equal reports"
        assert tx.reports.find("cafe" + "0" * 60).job_id == second.id
        assert tx.reports.find("abcd").report_id.startswith("cafe")
        assert tx.reports.find("beef").unit_key == "finish", "what the job was for"
        assert [row.unit_key for row in tx.reports.of_job(second.id)] == ["finish", "k2/finish"]
        assert [row.unit_key for row in tx.reports.latest(1)] == ["k2/finish"]
        for reference in ("caf", "0000", "nothing", "%"):
            with pytest.raises(NotFound):
                tx.reports.find(reference)


def test_a_repair_is_not_found_by_what_its_trials_left(filled):
    repair = replace(JOB, id="beef" + "0" * 28, kind=JobKind.REPAIR)
    with filled() as tx:
        tx.jobs.add(repair)
        for number, key in enumerate(("before/finish", "k2/finish", "after/finish"), 1):
            tx.reports.add(report(number, job_id=repair.id, key=key))
        with pytest.raises(NotFound):
            tx.reports.find(repair.id)
        tx.reports.add(replace(report(4, job_id=repair.id, key="compare"), kind=JobKind.REPAIR))
        tx.reports.add(report(5, job_id=repair.id, key="after/finish"))
        assert tx.reports.find(repair.id).unit_key == "compare"


def test_a_unit_that_runs_again_replaces_its_report(filled):
    with filled() as tx:
        tx.reports.add(report(1))
        tx.reports.add(replace(report(1), verdict="pass"))
    with filled() as tx:
        (only,) = tx.reports.of_job(JOB.id)
        assert only == replace(report(1), verdict="pass")
