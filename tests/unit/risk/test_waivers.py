"""Waivers: what a file may say, what they cover, and what they never do."""

from __future__ import annotations

from datetime import date

import pytest

from auditor.contracts.gate import FindingState
from auditor.contracts.outcome import OutcomeStatus
from auditor.contracts.policy import Policy, RiskLevel, Thresholds, Verdict
from auditor.contracts.waiver import WaiverState
from auditor.errors import ExitCode, InvalidInput
from auditor.risk.exit_code import exit_code
from auditor.risk.gate import decide_gate
from auditor.risk.waivers import read_waivers
from auditor.testing.reports import (
    LIFTS,
    sample_attacks,
    sample_control,
    sample_outcome,
    sample_report,
)
from auditor.testing.waivers import TODAY, sample_waiver, waivers_of_all

ENTRY = {
    "id": "W-1",
    "finding": "attack:ppa",
    "model": "faces-cnn",
    "reason": "known",
    "approver": "board",
    "created": "2026-01-01",
    "expires": "2026-06-01",
}


def decided(report, *waivers, today=TODAY, policy=None):
    return decide_gate(report, policy or report.policy, waivers=waivers, today=today).gate


class TestFile:
    @pytest.fixture
    def read(self, tmp_path):
        def call(text):
            path = tmp_path / "waivers.yaml"
            path.write_text(text)
            return read_waivers(path)

        return call

    def entry(self, **changes):
        return "\n    ".join(f"{key}: '{value}'" for key, value in (ENTRY | changes).items() if value is not None)

    def file(self, *entries, head=""):
        return head + "waivers:\n" + "".join(f"  - {entry}\n" for entry in entries)

    @pytest.mark.parametrize("key", ["reason", "approver"])
    @pytest.mark.parametrize("sign", ["\u200b", "\u3164", "\u2800", "\u00a0"])
    def test_what_nobody_sees_is_no_word(self, read, key, sign):
        with pytest.raises(InvalidInput, match="says nothing that can be seen"):
            read(self.file(self.entry(**{key: sign * 20})))

    @pytest.mark.parametrize("signs", ["\u001b[2K", "\u202e", "\u2067"])
    def test_what_a_terminal_acts_on_is_refused(self, read, signs):
        escaped = signs.replace("\u001b", "\\e")
        with pytest.raises(InvalidInput, match="control characters"):
            read(self.file(self.entry(reason=None) + f'\n    reason: "fine{escaped}PASS"'))
        with pytest.raises(InvalidInput, match="control characters"):
            read(self.file(self.entry(finding=None) + f'\n    finding: "class:ann{escaped}bob"'))

    def test_a_reason_of_several_lines_is_shown_on_one(self, read):
        text = self.file(self.entry(reason=None) + "\n    reason: |\n      known\n      ::error::and small\n")
        assert read(text).waivers[0].reason == "known ::error::and small"

    def test_what_is_written_is_read(self, read):
        (waiver,) = read(self.file(self.entry())).waivers
        assert (waiver.id, waiver.expires, waiver.up_to) == ("W-1", date(2026, 6, 1), RiskLevel.HIGH)

    def test_days_without_quotes(self, read):
        assert read(self.file(self.entry().replace("'2026-06-01'", "2026-06-01"))).waivers[0].expires.month == 6

    def test_all_problems_at_once_with_their_lines(self, read):
        text = self.file(
            self.entry(finding="ppa", expires=None, aprover="x"), self.entry(id="W-2", reason="  ", up_to="severe")
        )
        with pytest.raises(InvalidInput) as caught:
            read(text)
        problems = "\n".join(caught.value.problems)
        for said in ("'ppa' is not attack:KEY", "expires", "aprover", "reason", "up_to"):
            assert said in problems
        assert "waivers.yaml:2" in problems
        assert caught.value.exit_code is ExitCode.ERROR

    @pytest.mark.parametrize(
        ("entries", "head", "said"),
        [
            ([{}, {}], "", "'W-1' is given 2 times"),
            ([{"expires": "2027-06-01"}], "", "for 516 days, more than `max_days` (366)"),
            ([{"expires": "2026-03-01"}], "max_days: 30\n", "for 59 days, more than `max_days` (30)"),
            ([{"expires": "2025-06-01"}], "", "before `created`"),
        ],
    )
    def test_each_once_and_not_for_ever(self, read, entries, head, said):
        with pytest.raises(InvalidInput) as caught:
            read(self.file(*(self.entry(**changes) for changes in entries), head=head))
        assert said in str(caught.value)

    def test_a_longer_limit_has_to_be_written_down(self, read):
        assert read(self.file(self.entry(expires="2027-06-01"), head="max_days: 600\n")).max_days == 600

    @pytest.mark.parametrize("text", ["waivers: [", "- a\n", "waiver: []\n", "waivers: &a [*a]\n"])
    def test_what_is_no_file_of_waivers(self, read, text):
        with pytest.raises(InvalidInput):
            read(text)

    def test_an_absent_file_is_an_error(self, tmp_path):
        with pytest.raises(InvalidInput):
            read_waivers(tmp_path / "absent.yaml")


class TestWhatTheyCover:
    def test_all_that_failed(self):
        gate = decided(sample_report(), *waivers_of_all())
        assert (gate.verdict, gate.evidence, gate.level) == (Verdict.PASS, Verdict.FAIL, RiskLevel.HIGH)
        assert gate.words == "pass with waivers"
        assert exit_code(gate.verdict) is ExitCode.OK
        assert {use.state for use in gate.waivers} == {WaiverState.APPLIED}

    def test_one_finding_that_is_not_covered_fails(self):
        gate = decided(sample_report(), *waivers_of_all("ppa", "ppa-averaged"))
        assert gate.verdict is Verdict.FAIL
        assert [finding.attack for finding in gate.having(FindingState.FAILING)] == ["mirror-b"]

    def test_rules(self):
        gate = decided(sample_report(), sample_waiver("rule:E3.3"), sample_waiver("rule:E3.6"))
        assert gate.verdict is Verdict.PASS
        assert decided(sample_report(), sample_waiver("rule:E3.3")).verdict is Verdict.FAIL

    def test_a_control_that_leaks_is_a_finding_too(self):
        attacks = (*sample_attacks(LIFTS[Verdict.FAIL])[:3], sample_control(lift=(0.35, 0.31, 0.40)))
        report = sample_report(attacks=attacks)
        assert "attack:control/vae" in [finding.key for finding in report.failures()]
        assert decided(report, *waivers_of_all()).verdict is Verdict.FAIL
        assert decided(report, *waivers_of_all(), sample_waiver("attack:control/vae")).verdict is Verdict.PASS

    def test_searches_that_find_less_than_an_unguided_control_clear_nothing(self):
        report = sample_report(attacks=(*sample_attacks()[:3], sample_control(lift=(0.4, 0.35, 0.45))))
        assert decided(report, sample_waiver("attack:control/vae")).verdict is Verdict.INCONCLUSIVE

    def test_the_numbers_stay(self):
        report = sample_report()
        after = decide_gate(report, report.policy, waivers=waivers_of_all(), today=TODAY)
        assert after.attacks == report.attacks
        assert after.verdict == report.verdict

    def test_a_medium_that_is_not_excluded_can_be_waived(self):
        policy = Policy(fail_on=RiskLevel.MEDIUM)
        report = sample_report(lift=(0.15, 0.11, 0.20), policy=policy)
        assert report.verdict.verdict is Verdict.FAIL
        assert decided(report, *waivers_of_all()).verdict is Verdict.PASS
        assert decided(report, *waivers_of_all("ppa")).verdict is Verdict.FAIL

    def test_a_proven_medium_without_an_adaptive_attack_is_a_finding(self):
        """The rule that found it clears nothing, and what it proves fails all the same."""
        attacks = tuple(a for a in sample_attacks((0.15, 0.11, 0.20)) if not a.adaptive)
        report = sample_report(attacks=attacks, policy=Policy(fail_on=RiskLevel.MEDIUM))
        assert report.verdict.verdict is Verdict.FAIL
        assert {finding.rule for finding in report.failures()} >= {"E3.5"}
        assert decided(report, *waivers_of_all()).verdict is Verdict.INCONCLUSIVE

    def test_another_policy_decides_what_fails(self):
        medium = sample_report(Verdict.PASS, lift=(0.15, 0.11, 0.20))
        strict = Policy(fail_on=RiskLevel.MEDIUM)
        assert decided(medium, sample_waiver(), policy=strict).verdict is Verdict.FAIL
        assert decided(medium, *waivers_of_all(), policy=strict).verdict is Verdict.PASS


class TestClasses:
    def report(self, *named, lift=LIFTS[Verdict.PASS]):
        attacks = [
            sample_outcome("ppa", lift=lift, named=named),
            sample_outcome("ppa-averaged", attack="ppa", adaptive=True, lift=lift),
            *sample_attacks()[2:],
        ]
        return sample_report(attacks=tuple(attacks))

    @pytest.mark.parametrize("name", ["class:person-007", "class:7"])
    def test_a_class_that_alone_makes_it_fail(self, name):
        report = self.report(7)
        assert report.verdict.verdict is Verdict.FAIL
        gate = decided(report, sample_waiver(name))
        assert gate.verdict is Verdict.PASS
        assert gate.findings[0].classes == ("person-007",)

    def test_a_name_that_looks_like_an_index_is_that_class_alone(self):
        """Folders called 0, 1, 10, 2 sort so that the class called 2 has another index."""
        report = self.report(7)
        renamed = {8: "7", 7: "8"}
        first = report.attacks[0]
        rows = tuple(row.model_copy(update={"name": renamed.get(row.label, row.name)}) for row in first.per_class)
        attacks = (first.model_copy(update={"per_class": rows}), *report.attacks[1:])
        report = report.model_copy(update={"attacks": attacks})
        assert decided(report, sample_waiver("class:7")).verdict is Verdict.FAIL
        assert decided(report, sample_waiver("class:8")).verdict is Verdict.PASS

    def test_every_class_has_to_be_covered(self):
        report = self.report(7, 9)
        one = decided(report, sample_waiver("class:person-007"))
        assert one.verdict is Verdict.FAIL
        assert one.waivers[0].state is WaiverState.PARTIAL
        assert decided(report, sample_waiver("class:7"), sample_waiver("class:9")).verdict is Verdict.PASS

    def test_the_lift_fails_without_the_class_too(self):
        report = self.report(7, lift=LIFTS[Verdict.FAIL])
        gate = decided(report, sample_waiver("class:7"), *waivers_of_all("ppa-averaged"))
        assert gate.verdict is Verdict.FAIL
        assert gate.waivers[0].state is WaiverState.PARTIAL

    def test_without_the_class_nothing_may_be_settled(self):
        """The class made it fail, and hid that the interval of this attack excludes too little."""
        wide = sample_outcome("ppa", lift=LIFTS[Verdict.INCONCLUSIVE], named=(7,))
        report = sample_report(attacks=(wide, *sample_attacks()[1:]))
        assert report.verdict.verdict is Verdict.FAIL
        gate = decided(report, sample_waiver("class:7"))
        assert gate.verdict is Verdict.INCONCLUSIVE
        assert any("neither a leak nor its absence" in reason for reason in gate.missing)

    def test_the_share_of_the_classes_that_are_left_is_what_counts(self):
        attacks = (sample_outcome("ppa", named=(1, 2, 3, 4)), *sample_attacks()[1:])
        report = sample_report(attacks=attacks, policy=Policy(fail_on=RiskLevel.CRITICAL))
        gate = decided(report, sample_waiver("class:1", up_to=RiskLevel.CRITICAL))
        assert gate.verdict is Verdict.FAIL, "3 of 60 classes are still critical"
        two = [sample_waiver(f"class:{label}", up_to=RiskLevel.CRITICAL) for label in (1, 2)]
        assert decided(report, *two).verdict is not Verdict.FAIL

    def test_many_classes_are_critical_and_need_a_waiver_that_says_so(self):
        report = self.report(1, 2, 3, 4)
        assert report.verdict.level is RiskLevel.CRITICAL
        names = [f"class:{label}" for label in (1, 2, 3, 4)]
        gate = decided(report, *(sample_waiver(name) for name in names))
        assert gate.verdict is Verdict.FAIL
        assert {use.state for use in gate.waivers} == {WaiverState.EXCEEDED}
        gate = decided(report, *(sample_waiver(name, up_to=RiskLevel.CRITICAL) for name in names))
        assert gate.verdict is Verdict.PASS


class TestWhatTheyNeverDo:
    def test_inconclusive_stays_inconclusive(self):
        report = sample_report(Verdict.INCONCLUSIVE)
        rules = [sample_waiver(f"rule:E3.{nth}", up_to=RiskLevel.CRITICAL) for nth in range(2, 8)]
        gate = decided(report, *waivers_of_all(), *rules)
        assert gate.verdict is Verdict.INCONCLUSIVE
        assert {use.state for use in gate.waivers} == {WaiverState.UNUSED}

    def test_a_crash_beside_what_is_waived_is_inconclusive(self):
        attacks = tuple(
            a.model_copy(update={"status": OutcomeStatus.FAILED, "reason": "boom"}) if a.key == "mirror-b" else a
            for a in sample_attacks(LIFTS[Verdict.FAIL])
        )
        report = sample_report(attacks=attacks)
        assert report.verdict.verdict is Verdict.FAIL
        gate = decided(report, *waivers_of_all())
        assert gate.verdict is Verdict.INCONCLUSIVE
        assert any("boom" in reason for reason in gate.missing)
        assert exit_code(gate.verdict) is ExitCode.INCONCLUSIVE

    def test_what_is_missing_beside_a_passing_attack_and_a_waived_one_is_still_missing(self):
        gone = {"status": OutcomeStatus.FAILED, "reason": "boom", "scores": (), "per_class": ()}
        failing, passing = sample_attacks(LIFTS[Verdict.FAIL]), sample_attacks()
        report = sample_report(attacks=(failing[0], passing[1], passing[2].model_copy(update=gone), passing[3]))
        assert report.verdict.verdict is Verdict.FAIL
        gate = decided(report, sample_waiver())
        assert gate.verdict is Verdict.INCONCLUSIVE
        assert any("boom" in reason for reason in gate.missing)

    def test_too_few_methods_beside_what_is_waived_is_inconclusive(self):
        policy = Policy(thresholds=Thresholds(min_attacks=3))
        report = sample_report(policy=policy)
        assert decided(report, *waivers_of_all()).verdict is Verdict.INCONCLUSIVE

    @pytest.mark.parametrize(
        ("today", "state", "verdict"),
        [
            (date(2025, 12, 31), WaiverState.PENDING, Verdict.FAIL),
            (date(2026, 1, 1), WaiverState.APPLIED, Verdict.PASS),
            (date(2026, 6, 1), WaiverState.APPLIED, Verdict.PASS),
            (date(2026, 6, 2), WaiverState.EXPIRED, Verdict.FAIL),
        ],
    )
    def test_it_counts_from_the_day_it_was_made_through_the_day_it_expires(self, today, state, verdict):
        gate = decided(sample_report(), *waivers_of_all(), today=today)
        assert {use.state for use in gate.waivers} == {state}
        assert gate.verdict is verdict

    def test_other_models_are_none_of_its_business(self):
        gate = decided(sample_report(), *waivers_of_all(model="other"))
        assert gate.verdict is Verdict.FAIL
        assert gate.waivers == ()

    def test_a_finding_that_grew_worse_fails_again(self):
        report = sample_report(lift=(0.6, 0.52, 0.7))
        assert report.verdict.level is RiskLevel.CRITICAL
        gate = decided(report, *waivers_of_all())
        assert gate.verdict is Verdict.FAIL
        states = {use.waiver.finding: use.state for use in gate.waivers}
        assert states["attack:ppa"] is WaiverState.EXCEEDED
        assert decided(report, *waivers_of_all(up_to=RiskLevel.CRITICAL)).verdict is Verdict.PASS

    def test_a_stored_fail_that_the_evidence_does_not_show_keeps_its_force(self):
        report = sample_report(Verdict.PASS)
        edited = report.model_copy(update={"verdict": report.verdict.model_copy(update={"verdict": Verdict.FAIL})})
        assert decided(edited, *waivers_of_all()).verdict is Verdict.FAIL


@pytest.mark.parametrize("verdict", list(Verdict))
def test_without_waivers_the_decision_is_the_evidence(verdict):
    report = sample_report(verdict)
    gate = decided(report)
    assert (gate.verdict, gate.evidence, gate.words) == (verdict, verdict, str(verdict))
    assert gate == report.decision


class TestAWorseStoredVerdict:
    """Of an older version's rules, or of what they no longer see: waivers and baselines know nothing of it."""

    def stored(self, report, verdict):
        return report.model_copy(update={"verdict": verdict})

    def test_an_inconclusive_audit_stays_one(self):
        failed = sample_report(Verdict.FAIL)
        verdict = failed.verdict.model_copy(update={"verdict": Verdict.INCONCLUSIVE, "level": None})
        gate = decided(self.stored(failed, verdict), *waivers_of_all())
        assert gate.having(FindingState.WAIVED)
        assert gate.verdict is Verdict.INCONCLUSIVE
        assert "audit the model again" in gate.missing[-1]

    def test_one_leak_more_that_is_waived_excuses_no_other(self):
        passed, failed = sample_report(Verdict.PASS), sample_report(Verdict.FAIL)
        by_key = {outcome.key: outcome for outcome in failed.attacks}
        one = tuple(by_key[outcome.key] if outcome.key == "ppa" else outcome for outcome in passed.attacks)
        mixed = self.stored(passed.model_copy(update={"attacks": one}), failed.verdict)
        assert len(failed.failures()) > 1
        gate = decided(mixed, *waivers_of_all())
        assert [finding.attack for finding in gate.having(FindingState.WAIVED)] == ["ppa"]
        assert gate.verdict is Verdict.INCONCLUSIVE

    def test_what_is_found_today_as_it_was_then_is_waived(self):
        failed = sample_report(Verdict.FAIL)
        assert decided(failed, *waivers_of_all()).verdict is Verdict.PASS
