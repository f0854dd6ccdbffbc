"""What lists tell of stored reports after the rules have changed."""

from dataclasses import replace

import pytest
from test_database_port import JOB, LATER, SUBMISSION, report, transactions  # noqa: F401 - a fixture

from auditor.contracts.base import canonical_json
from auditor.contracts.jobs import JobKind, JobState
from auditor.contracts.policy import Policy, RiskLevel, Verdict
from auditor.contracts.repair import RepairReport
from auditor.errors import StorageAway, StorageFailure
from auditor.report.build import content_digest_of, sealed
from auditor.risk.gate import decide_gate
from auditor.risk.rules import RULES
from auditor.service import verdicts
from auditor.service.pipeline import AFTER, FINISH
from auditor.service.reports import read_repair
from auditor.service.verdicts import Verdicts
from auditor.testing.ports import InMemoryStore
from auditor.testing.reports import sample_repair_report, sample_report

REPAIR_JOB = replace(JOB, id="b" * 32, kind=JobKind.REPAIR, payload={"data": {"report.json": "0" * 64}})
LOOSE = Policy(name="loose", fail_on=RiskLevel.CRITICAL)


def said(evidence, verdict):
    """A report whose evidence gives one verdict today, and whose stored verdict is another."""
    return sample_report(evidence).model_copy(update={"verdict": sample_report(verdict).verdict})


class Place:
    """Stored reports of an audit and of a repair."""

    def __init__(self, database):
        self.database, self.store = database, InMemoryStore()
        with database() as tx:
            tx.submissions.add(SUBMISSION)
            for job in (JOB, REPAIR_JOB):
                tx.jobs.add(replace(job, state=JobState.DONE))

    def put(self, contract, *, job=JOB, key=FINISH, **told):
        digest = self.store.put_bytes(canonical_json(contract).encode())
        kind = JobKind.REPAIR if isinstance(contract, RepairReport) else JobKind.AUDIT
        entry = replace(report(1, job_id=job.id, key=key, report_id=contract.id), digest=digest, kind=kind, rules=0)
        with self.database() as tx:
            tx.reports.add(replace(entry, **told))

    def judge(self):
        return Verdicts(transactions=self.database, store=self.store).judge_anew()

    def entry(self, job=JOB, key=FINISH):
        with self.database() as tx:
            return next(entry for entry in tx.reports.of_job(job.id) if entry.unit_key == key)


@pytest.fixture
def place(transactions):  # noqa: F811
    return Place(transactions)


def test_a_pass_whose_evidence_fails_today_is_listed_as_what_its_page_says(place):
    place.put(said(Verdict.FAIL, Verdict.PASS), verdict="pass")
    assert place.judge() == 1
    entry = place.entry()
    assert (entry.verdict, entry.level, entry.looser_policy, entry.rules) == ("fail", "high", False, RULES)
    assert (entry.created_at, entry.name, entry.report_id) == (report(1).created_at, "faces", sample_report().id)


@pytest.mark.parametrize("verdict", [Verdict.FAIL, Verdict.INCONCLUSIVE])
def test_no_verdict_gets_better(place, verdict):
    place.put(said(Verdict.PASS, verdict), verdict=str(verdict))
    place.judge()
    assert place.entry().verdict == verdict


@pytest.mark.parametrize("rules", [RULES, RULES + 1])
def test_what_these_or_later_rules_have_judged_is_not_read_again(place, rules):
    place.put(said(Verdict.PASS, Verdict.FAIL), verdict="pass", rules=rules)
    assert place.judge() == 0
    assert (place.entry().verdict, place.entry().rules) == ("pass", rules)


@pytest.mark.parametrize("told", [("pass", "inconclusive", None), ("inconclusive", "inconclusive", None),
                                  ("fail", "fail", "high"), (None, None, "high")])  # fmt: skip
def test_lists_tell_no_pass_that_earlier_rules_gave(place, told):
    stored, verdict, level = told
    place.put(sample_report(), verdict=stored, level="high")
    assert (place.entry().verdict, place.entry().level) == (verdict, level)
    with place.database() as tx:
        assert tx.queue.statistics(LATER).reports == {("audit", verdict or ""): 1}


def test_however_many_there_are(place):
    for number in range(120):
        place.put(said(Verdict.FAIL, Verdict.PASS), key=f"k{number}/finish", verdict="pass")
    assert (place.judge(), place.judge()) == (120, 0)
    with place.database() as tx:
        assert {entry.verdict for entry in tx.reports.of_job(JOB.id)} == {"fail"}


def test_of_older_entries_it_becomes_known_whether_their_policy_is_looser(place):
    place.put(decide_gate(sample_report(Verdict.FAIL), LOOSE).model_copy(update={"gate": None}), verdict="pass")
    place.judge()
    assert (place.entry().verdict, place.entry().looser_policy) == ("pass", True)


@pytest.mark.parametrize("text", [None, b"{}"])
def test_what_cannot_be_read_stays_and_is_told_as_no_pass(place, text, caplog):
    digest = "9" * 64 if text is None else place.store.put_bytes(text)
    with place.database() as tx:
        tx.reports.add(replace(report(1), digest=digest, verdict="pass", rules=0))
    assert (place.judge(), place.judge()) == (0, 0)
    assert (place.entry().verdict, place.entry().level) == ("inconclusive", None)
    assert caplog.text.count("lists tell no pass of it") == 2


def test_a_report_that_breaks_a_rule_hides_no_other(place, monkeypatch):
    place.put(sample_report(Verdict.FAIL), verdict="pass")
    place.put(sample_report(Verdict.PASS), key="k1/finish", verdict="pass")
    decide = verdicts.by_its_evidence

    def broken(audit):
        if audit.verdict.verdict is Verdict.FAIL:
            raise OverflowError("cannot convert float infinity to integer")
        return decide(audit)

    monkeypatch.setattr(verdicts, "by_its_evidence", broken)
    assert place.judge() == 1
    assert (place.entry().verdict, place.entry(key="k1/finish").verdict) == ("inconclusive", "pass")


def test_what_can_be_read_again_has_its_verdict_again(place, monkeypatch, caplog):
    """As after a start with the wrong key."""
    place.put(said(Verdict.FAIL, Verdict.PASS), verdict="pass")
    for number in range(60):
        place.put(sample_report(Verdict.PASS), key=f"k{number}/finish", verdict="pass")
    tried, read = [], place.store.get_bytes

    def with_the_wrong_key(digest):
        tried.append(digest)
        raise StorageFailure("it is encrypted with another key", remedy="Set AUDITOR_ENCRYPTION_KEYS.")

    monkeypatch.setattr(place.store, "get_bytes", with_the_wrong_key)
    assert (place.judge(), len(tried)) == (0, 61)
    assert "it is encrypted with another key Set AUDITOR_ENCRYPTION_KEYS." in caplog.text
    assert {place.entry().verdict, place.entry(key="k7/finish").verdict} == {"inconclusive"}
    monkeypatch.setattr(place.store, "get_bytes", read)
    assert (place.judge(), place.judge()) == (61, 0)
    assert (place.entry().verdict, place.entry(key="k7/finish").verdict) == ("fail", "pass")


def test_many_that_are_lost_keep_none_from_being_judged(place):
    place.put(said(Verdict.FAIL, Verdict.PASS), verdict="pass")
    for number in range(120):
        with place.database() as tx:
            tx.reports.add(replace(report(1, key=f"k{number}/finish"), digest="9" * 64, verdict="pass", rules=0))
    assert (place.judge(), place.judge()) == (1, 0)
    assert place.entry().verdict == "fail"


def test_a_store_that_is_away_is_asked_once(place, monkeypatch):
    for number in range(3):
        place.put(sample_report(Verdict.PASS), key=f"k{number}/finish", verdict="pass")
    asked = []

    def away(digest):
        asked.append(digest)
        raise StorageAway("not now")

    monkeypatch.setattr(place.store, "get_bytes", away)
    assert (place.judge(), len(asked)) == (0, 1)


def test_a_report_that_a_unit_left_meanwhile_keeps_its_own_verdict(place):
    place.put(said(Verdict.FAIL, Verdict.PASS), verdict="pass")
    earlier = replace(place.entry(), verdict="fail", rules=RULES)
    place.put(sample_report(Verdict.INCONCLUSIVE), verdict="inconclusive", rules=0)
    with place.database() as tx:
        tx.reports.judge(earlier)
    assert place.entry().rules == 0


def test_an_older_process_takes_nothing_back(place):
    place.put(sample_report(Verdict.FAIL), verdict="fail", rules=RULES)
    older = replace(place.entry(), verdict="pass", rules=RULES - 1)
    with place.database() as tx:
        tx.reports.judge(older)
    assert place.entry().verdict == "fail"


def test_taking_pictures_away_changes_no_stored_verdict(place):
    place.put(sample_report(Verdict.PASS), verdict="pass", gallery_digest="8" * 64)
    with place.database() as tx:
        assert list(tx.reports.without_pictures(JOB.id)) == ["8" * 64]
    place.judge()
    assert (place.entry().verdict, place.entry().gallery_digest) == ("pass", None)


class TestRepairs:
    @pytest.fixture
    def repair(self, place):
        """A repair whose audit passed once, and fails by today's rules."""
        after = said(Verdict.FAIL, Verdict.PASS)
        done = sample_repair_report().model_copy(
            update={"after_report_id": after.id, "verdict_after": Verdict.PASS, "before_report_id": "f" * 64}
        )
        place.put(after, job=REPAIR_JOB, key=AFTER + FINISH, verdict="pass")
        place.put(sealed(done), job=REPAIR_JOB, key="compare", verdict="pass")
        return sealed(done)

    def read(self, place):
        return read_repair(place.entry(REPAIR_JOB, "compare"), place.database, place.store)

    def test_its_verdict_is_no_better_than_what_is_told_of_its_audit(self, place, repair):
        for told in (Verdict.INCONCLUSIVE, Verdict.FAIL):
            read = self.read(place)
            assert (read.verdict_before, read.verdict_after) == (repair.verdict_before, told)
            assert f"the audit after it is {told}, not pass" in read.notes[-1]
            assert read.content_digest == content_digest_of(read), "who reads it from a file takes it for no edit"
            place.judge()

    def test_lists_say_the_same(self, place, repair):
        assert place.judge() == 2
        assert place.entry(REPAIR_JOB, "compare").verdict == "fail"

    def test_one_whose_audit_cannot_be_read_is_judged_when_it_can(self, place):
        after = sample_report(Verdict.PASS)
        done = sample_repair_report().model_copy(update={"after_report_id": after.id, "verdict_after": Verdict.PASS})
        row = report(1, job_id=REPAIR_JOB.id, key=AFTER + FINISH, report_id=after.id)
        with place.database() as tx:
            tx.reports.add(replace(row, digest=place.store.put_bytes(b"no json"), verdict="pass", rules=0))
        place.put(sealed(done), job=REPAIR_JOB, key="compare", verdict="pass")

        def told():
            entry = place.entry(REPAIR_JOB, "compare")
            return place.judge(), entry.verdict, entry.rules, self.read(place).verdict_after

        assert told() == told() == (0, "inconclusive", 0, Verdict.INCONCLUSIVE)
        with place.database() as tx:
            digest = place.store.put_bytes(canonical_json(after).encode())
            tx.reports.add(replace(row, digest=digest, verdict="pass", rules=0))
        place.put(sealed(done), job=REPAIR_JOB, key="compare", verdict="pass")
        assert place.judge() == 2
        assert told() == (0, "pass", RULES, Verdict.PASS)

    def test_one_whose_audit_there_is_not_passes_no_longer(self, place):
        done = sample_repair_report().model_copy(update={"after_report_id": "e" * 64, "verdict_after": Verdict.PASS})
        place.put(sealed(done), job=REPAIR_JOB, key="compare", verdict="pass")
        place.judge()
        assert place.entry(REPAIR_JOB, "compare").verdict == "inconclusive"

    def test_one_that_is_borne_out_is_given_as_it_is(self, place):
        after = sample_report(Verdict.INCONCLUSIVE)
        done = sealed(sample_repair_report().model_copy(update={"after_report_id": after.id}))
        place.put(after, job=REPAIR_JOB, key=AFTER + FINISH, verdict="inconclusive")
        place.put(done, job=REPAIR_JOB, key="compare")
        assert self.read(place) == done

    def test_one_of_an_older_version_says_that_its_policy_is_looser(self, place):
        after = decide_gate(sample_report(Verdict.FAIL), LOOSE).model_copy(update={"gate": None})
        done = sample_repair_report().model_copy(update={"after_report_id": after.id, "verdict_after": Verdict.PASS})
        place.put(after, job=REPAIR_JOB, key=AFTER + FINISH, verdict="pass")
        place.put(sealed(done), job=REPAIR_JOB, key="compare", verdict="pass")
        place.judge()
        assert self.read(place).policy_loosened == ("see its audits",)
        entry = place.entry(REPAIR_JOB, "compare")
        assert (entry.verdict, entry.looser_policy) == ("pass", True)
