"""A baseline: what may serve as one, and what is worse than it."""

from __future__ import annotations

from datetime import date

import pytest

from auditor.cli.gating import Gating, gated
from auditor.contracts.gate import Approval, FindingState
from auditor.contracts.outcome import OutcomeStatus
from auditor.contracts.policy import Policy, RiskLevel, Verdict
from auditor.contracts.scores import NotMeasured
from auditor.errors import ExitCode, InvalidInput
from auditor.risk.baseline import against as baseline_of
from auditor.risk.baseline import check_comparable, check_complete
from auditor.testing.reports import (
    LIFTS,
    sample_attacks,
    sample_evaluator,
    sample_outcome,
    sample_plan,
    sample_report,
    sample_target,
)
from auditor.testing.waivers import waivers_of_all


def decided(report, baseline, waivers=None):
    return gated(report, Gating(waivers, baseline)).gate


def against(report, baseline):
    gate = decided(report, baseline)
    return gate.verdict, {finding.attack: finding.state for finding in gate.findings}


def _half_exposed(outcome):
    rows = tuple(row.model_copy(update={"both": float(row.label >= 30)}) for row in outcome.per_class)
    return outcome.model_copy(update={"per_class": rows})


def _finding(attack, *people, policy=None):
    """An audit with an attack of twenty pictures each that finds these people always, and nobody else."""
    attacks = tuple(
        outcome.model_copy(
            update={
                "per_class": tuple(
                    row.model_copy(update={"n": 20, "both": float(row.label in people)}) for row in outcome.per_class
                )
            }
        )
        if outcome.key == attack
        else outcome
        for outcome in sample_attacks(LIFTS[Verdict.FAIL])
    )
    return sample_report(attacks=attacks, policy=policy)


class TestRegressions:
    def test_what_the_baseline_has_too_is_known(self):
        verdict, states = against(sample_report(), sample_report())
        assert verdict is Verdict.PASS
        assert set(states.values()) == {FindingState.KNOWN}
        gate = decided(sample_report(), sample_report())
        assert gate.words == "pass against the baseline"
        assert gate.evidence is Verdict.FAIL

    def test_less_than_in_the_baseline_is_known(self):
        assert against(sample_report(), sample_report(lift=(0.6, 0.52, 0.7)))[0] is Verdict.PASS

    def test_more_than_in_the_baseline_beyond_noise_fails(self):
        worse = sample_report(lift=(0.6, 0.52, 0.7))
        gate = decided(worse, sample_report())
        assert gate.verdict is Verdict.FAIL
        (ppa,) = [finding for finding in gate.findings if finding.attack == "ppa"]
        assert "the lift rose by at least" in ppa.regression
        assert set(gate.baseline.rises) == {"ppa", "ppa-averaged", "mirror-b"}

    def test_a_leak_that_was_none_before_fails(self):
        assert against(sample_report(Verdict.FAIL), sample_report(Verdict.PASS))[0] is Verdict.FAIL

    @pytest.mark.parametrize(("verdict", "state"), [("pass", FindingState.FAILING), ("fail", FindingState.KNOWN)])
    def test_a_baseline_that_did_not_fail_excuses_nothing(self, verdict, state):
        """However little the leak lies above it: nothing rose beyond noise here."""
        report, baseline = sample_report(Verdict.FAIL), sample_report(Verdict(verdict))
        compared = decided(report, sample_report(Verdict.FAIL)).baseline
        (ppa,) = [finding for finding in report.failures() if finding.attack == "ppa"]
        (found,) = baseline_of(baseline, report, compared, [ppa])
        assert found.state is state
        assert ("does not fail by it" in found.regression) == (state is FindingState.FAILING)

    def test_the_baseline_of_another_model_is_refused(self):
        other = sample_report()
        other = other.model_copy(update={"target": other.target.model_copy(update={"name": "another"})})
        with pytest.raises(InvalidInput, match="of the model 'another'"):
            decided(sample_report(), other)

    def test_within_noise_is_no_regression(self):
        """A few classes up, as many down: the mean moves less than its paired interval."""
        report = sample_report()
        outcome = report.attacks[0]
        rows = tuple(
            row.model_copy(update={"both": min(max(row.both + (0.21 if row.label % 2 else -0.2), 0.0), 1.0)})
            for row in outcome.per_class
        )
        moved = outcome.model_copy(update={"per_class": rows})
        verdict, states = against(sample_report(attacks=(moved, *report.attacks[1:])), report)
        assert verdict is Verdict.PASS
        assert states["ppa"] is FindingState.KNOWN

    def test_an_attack_that_the_baseline_never_met(self):
        report = sample_report()
        added = sample_outcome("gmi", lift=LIFTS[Verdict.FAIL])
        plan = report.plan.model_copy(
            update={"attacks": (*report.plan.attacks, report.plan.attacks[0].model_copy(update={"label": "gmi"}))}
        )
        gate = decided(sample_report(plan=plan, attacks=(*report.attacks, added)), report)
        assert gate.verdict is Verdict.FAIL
        assert [finding.attack for finding in gate.having(FindingState.FAILING)] == ["gmi"]
        assert "not attacked by it" in gate.having(FindingState.FAILING)[0].regression

    def test_what_cannot_be_paired_is_not_taken_for_known(self):
        report = sample_report()
        bare = report.attacks[0].model_copy(update={"per_class": ()})
        gate = decided(report, sample_report(attacks=(bare, *report.attacks[1:])))
        assert gate.verdict is Verdict.FAIL
        (finding,) = gate.having(FindingState.FAILING)
        assert "cannot be paired" in finding.regression

    def test_a_class_that_did_not_leak_for_certain_before(self):
        def report(*named):
            outcome = sample_outcome("ppa", named=named)
            rows = tuple(row.model_copy(update={"both": float(row.label in named)}) for row in outcome.per_class)
            return sample_report(attacks=(outcome.model_copy(update={"per_class": rows}), *sample_attacks()[1:]))

        assert against(report(3), report(3, 4))[0] is Verdict.PASS
        gate = decided(report(3, 5), report(3, 4))
        assert gate.verdict is Verdict.FAIL
        assert "exposed more than in the baseline: person-005 (0 of 20, now 5 of 20)" in gate.findings[0].regression

    def test_the_same_mean_over_other_people_fails(self):
        """The people who leaked are safe and others leak instead: no mean moves."""
        report = sample_report()
        turned = tuple(
            outcome.model_copy(
                update={
                    "per_class": tuple(
                        row.model_copy(update={"both": other.both})
                        for row, other in zip(outcome.per_class, reversed(outcome.per_class), strict=True)
                    )
                }
            )
            for outcome in (_half_exposed(outcome) for outcome in report.attacks)
        )
        before = sample_report(attacks=tuple(_half_exposed(outcome) for outcome in report.attacks))
        gate = decided(sample_report(attacks=turned), before)
        assert gate.baseline.rises == ()
        assert gate.verdict is Verdict.FAIL
        assert len(gate.baseline.exposed) == 30
        assert "exposed more than in the baseline: person-000 (0 of 20, now 20 of 20)" in gate.findings[0].regression

    def test_a_person_whom_only_an_attack_that_does_not_fail_exposes_is_not_excused(self):
        """Nobody is let through by a leak of others."""
        (control,) = [outcome for outcome in sample_report().attacks if outcome.is_control]
        gate = decided(_finding(control.key, 9), _finding(control.key))
        (found,) = gate.baseline.exposed
        assert (found.label, found.attacks) == (9, (control.key,))
        assert len(gate.having(FindingState.FAILING)) == len(gate.findings) == 3
        assert all("person-009" in finding.regression for finding in gate.findings)

    def test_a_person_exposed_by_one_of_the_attacks_fails_that_one(self):
        gate = decided(_finding("ppa", 9), _finding("ppa"))
        assert [finding.attack for finding in gate.having(FindingState.FAILING)] == ["ppa"]
        assert decided(_finding("ppa", 9), _finding("ppa", 9)).having(FindingState.FAILING) == ()

    def test_people_newly_exposed_are_told_where_the_policy_lets_all_through(self):
        loose = Policy(fail_on=RiskLevel.CRITICAL)
        gate = decided(_finding("ppa", 9, policy=loose), _finding("ppa", policy=loose))
        assert gate.findings == ()
        assert gate.verdict is gate.evidence
        assert [found.name for found in gate.baseline.exposed] == ["person-009"]

    def test_a_rise_that_the_policy_lets_through_is_told_and_does_not_fail(self):
        gate = decided(sample_report(Verdict.PASS, lift=(0.15, 0.11, 0.20)), sample_report(Verdict.PASS))
        assert gate.verdict is Verdict.PASS
        assert "ppa" in gate.baseline.rises

    def test_inconclusive_stays_inconclusive(self):
        assert against(sample_report(Verdict.INCONCLUSIVE), sample_report()) == (Verdict.INCONCLUSIVE, {})

    def test_a_crash_beside_known_leaks_is_inconclusive(self):
        attacks = tuple(
            a.model_copy(update={"status": OutcomeStatus.FAILED, "reason": "boom"}) if a.key == "mirror-b" else a
            for a in sample_attacks(LIFTS[Verdict.FAIL])
        )
        gate = decided(sample_report(attacks=attacks), sample_report())
        assert gate.verdict is Verdict.INCONCLUSIVE
        assert any("boom" in reason for reason in gate.missing)

    def test_waivers_and_a_baseline_together(self):
        worse = sample_report(lift=(0.45, 0.40, 0.49))
        assert decided(worse, sample_report()).verdict is Verdict.FAIL
        gate = gated(
            worse,
            Gating(tuple(w.model_copy(update={"expires": w.expires.replace(year=2100)}) for w in waivers_of_all()),
                   sample_report()),
        ).gate  # fmt: skip
        assert gate.verdict is Verdict.PASS
        assert gate.words == "pass with waivers"


class TestWhatMayServe:
    def refused(self, report, baseline):
        with pytest.raises(InvalidInput) as caught:
            decided(report, baseline)
        assert caught.value.exit_code is ExitCode.ERROR
        return "\n".join(caught.value.problems)

    def test_other_plans(self):
        plan = sample_plan().model_copy(update={"samples_per_class": 9, "seed": 3})
        said = self.refused(sample_report(), sample_report(plan=plan))
        assert "seed" in said
        assert "samples_per_class" in said

    def test_a_plan_from_which_an_attack_was_taken(self):
        plan = sample_plan().model_copy(update={"attacks": sample_plan().attacks[:2]})
        assert "attacks" in self.refused(sample_report(plan=plan), sample_report())

    def test_other_models_and_other_judges_all_at_once(self):
        other = sample_report(
            target=sample_target(n_classes=10),
            judge=sample_report().judge.model_copy(update={"digest": "other"}),
            evaluator=sample_evaluator().model_copy(update={"digest": "another"}),
        )
        said = self.refused(sample_report(), other)
        assert "158" in said
        assert "different judges" in said
        assert "different evaluators" in said

    @pytest.mark.parametrize("status", [OutcomeStatus.FAILED, OutcomeStatus.SKIPPED])
    def test_incomplete_runs(self, status):
        attacks = sample_attacks(LIFTS[Verdict.FAIL])
        broken = attacks[2].model_copy(update={"status": status, "reason": "boom"})
        with pytest.raises(InvalidInput, match="boom"):
            check_complete(sample_report(attacks=(*attacks[:2], broken, attacks[3])))

    def test_half_the_samples_no_result_and_no_verdict(self):
        attacks = sample_attacks(LIFTS[Verdict.FAIL])
        coverage = attacks[0].coverage.model_copy(update={"samples_done": 3})
        with pytest.raises(InvalidInput) as caught:
            check_complete(
                sample_report(attacks=(attacks[0].model_copy(update={"coverage": coverage}), attacks[1], attacks[3]))
            )
        assert any("3 of 300 samples" in problem for problem in caught.value.problems)
        assert any("mirror-b has no result" in problem for problem in caught.value.problems)
        with pytest.raises(InvalidInput, match="inconclusive"):
            check_complete(sample_report(Verdict.INCONCLUSIVE))

    @pytest.mark.parametrize("verdict", [Verdict.PASS, Verdict.FAIL])
    def test_whole_runs_may_serve(self, verdict):
        check_complete(sample_report(verdict))

    def test_classes_named_at_another_rate(self):
        """A rate so low that everybody is named leaves no class that could be new."""
        thresholds = Policy().thresholds.model_copy(update={"named_rate": 0.2})
        loose = sample_report(policy=Policy(thresholds=thresholds))
        assert "at a rate of 0.2 there, and of 0.5 here" in self.refused(sample_report(), loose)

    def test_an_index_that_is_another_person_by_now(self):
        report = sample_report()
        first, *rest = report.attacks[0].per_class
        moved = report.attacks[0].model_copy(update={"per_class": (first.model_copy(update={"name": "eve"}), *rest)})
        said = self.refused(report, sample_report(attacks=(moved, *report.attacks[1:])))
        assert f"class {first.label} is 'eve' there and '{first.name}' here" in said

    def test_no_judge_is_another_judge(self):
        report = sample_report()
        none = NotMeasured(metric="judge", reason="there was none")
        with pytest.raises(InvalidInput, match="different judges"):
            check_comparable(report.model_copy(update={"judge": none}), report, ())


class TestWhatCannotBeSeen:
    """Where the numbers leave a rise unseen, the finding is not taken for known."""

    def regression(self, report, baseline):
        gate = decided(report, baseline)
        assert gate.verdict is Verdict.FAIL
        (finding,) = gate.having(FindingState.FAILING)
        assert finding.attack == "ppa"
        return finding.regression

    def test_a_lift_over_another_ceiling(self):
        """The rates are as before, but the prior draws worse: what it could draw of the people is more than before."""
        report = sample_report()
        rows = tuple(row.model_copy(update={"ceiling_both": 0.9}) for row in report.attacks[0].per_class)
        other = report.attacks[0].model_copy(update={"per_class": rows})
        said = self.regression(report, sample_report(attacks=(other, *report.attacks[1:])))
        assert said == "its lift cannot be paired with the baseline's"

    def test_classes_that_the_baseline_did_not_attack(self):
        report = sample_report()
        fewer = report.attacks[0].model_copy(update={"per_class": report.attacks[0].per_class[5:]})
        said = self.regression(report, sample_report(attacks=(fewer, *report.attacks[1:])))
        assert said == "5 of its classes were not attacked in the baseline"


class TestApproval:
    """What a team approved excuses what failed before its eyes, up to the level that it saw."""

    def decide(self, report, findings):
        approval = Approval(approver="ann", approved=date(2026, 1, 1), findings=findings)
        return gated(report, Gating(None, sample_report(), approval)).gate

    def all_at(self, level):
        return {finding.key: level for finding in sample_report().failures()}

    def test_what_failed_then_is_let_through(self):
        gate = self.decide(sample_report(), self.all_at(RiskLevel.HIGH))
        assert gate.words == "pass against the baseline"
        assert gate.baseline.approval.approver == "ann"

    def test_what_was_waived_or_passed_then_is_not(self):
        findings = self.all_at(RiskLevel.HIGH)
        del findings["attack:ppa"]
        gate = self.decide(sample_report(), findings)
        assert gate.verdict is Verdict.FAIL
        (finding,) = gate.having(FindingState.FAILING)
        assert "approval of 2026-01-01 does not let it through" in finding.regression

    def test_a_higher_level_is_not(self):
        gate = self.decide(sample_report(), self.all_at(RiskLevel.MEDIUM))
        assert gate.verdict is Verdict.FAIL
        assert {finding.regression for finding in gate.findings} == {
            "the approval of 2026-01-01 lets it through up to medium"
        }

    def test_a_policy_that_became_stricter_is_not_excused_from(self):
        """The audit passed under the policy of its day; a stricter one fails it, and nobody let that through."""
        before = sample_report(policy=Policy(fail_on=RiskLevel.CRITICAL))
        assert before.verdict.verdict is Verdict.PASS
        approval = Approval(approver="ann", approved=date(2026, 1, 1), findings={})
        assert gated(sample_report(), Gating(None, before, approval)).gate.verdict is Verdict.FAIL
