"""The gate: what fails, what passes, and every way known to us in which a pass could be wrong."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.contracts.access import Access
from auditor.contracts.base import digest_of
from auditor.contracts.cards import OverlapCheck
from auditor.contracts.outcome import Coverage, OutcomeStatus
from auditor.contracts.plan import AttackSpec, Withheld
from auditor.contracts.policy import Policy, RiskLevel, Thresholds, Verdict
from auditor.contracts.scores import NotMeasured
from auditor.contracts.submission import ParityCheck
from auditor.risk.decide import decide
from auditor.testing.reports import (
    LIFTS,
    measured,
    sample_attacks,
    sample_control,
    sample_evaluator,
    sample_judge,
    sample_outcome,
    sample_plan,
    sample_prior,
    sample_target,
)

ABSENT = NotMeasured(metric="x", reason="no private data was given")


def audit(verdict=Verdict.PASS, **changes):
    """Arguments of `decide` for an audit that gives `verdict`, with `changes`."""
    return {
        "attacks": sample_attacks(LIFTS[verdict]),
        "evaluator": sample_evaluator(),
        "judge": sample_judge(),
        "priors": (sample_prior(),),
        "overlap": OverlapCheck(checked=True),
        "plan": sample_plan(),
        "policy": Policy(),
        "weights_published": False,
        "target": sample_target(),
        **changes,
    }


def swap(attacks, key, **changes):
    return tuple(a.model_copy(update=changes) if a.key == key else a for a in attacks)


def every(attacks, **changes):
    return tuple(a if a.is_control else a.model_copy(update=changes) for a in attacks)


def with_score(outcome, score):
    kept = tuple(s for s in outcome.scores if s.metric != score.metric)
    return outcome.model_copy(update={"scores": (*kept, score)})


def all_with_score(attacks, score):
    return tuple(a if a.is_control else with_score(a, score) for a in attacks)


class TestTheThreeVerdicts:
    @pytest.mark.parametrize(
        ("verdict", "level"),
        [(Verdict.PASS, RiskLevel.LOW), (Verdict.FAIL, RiskLevel.HIGH), (Verdict.INCONCLUSIVE, None)],
    )
    def test_verdict_and_level(self, verdict, level):
        answer = decide(**audit(verdict))
        assert (answer.verdict, answer.level) == (verdict, level)
        assert answer.policy_digest == digest_of(Policy())

    def test_a_pass_says_what_it_means(self):
        answer = decide(**audit())
        assert answer.reasons[0] == "No attack of this suite succeeded within this budget."
        assert any("memorised was not measured" in line for line in answer.reasons)
        assert answer.needs == ()

    def test_what_passes_by_the_policy_alone_is_not_said_to_have_withstood_every_attack(self):
        answer = decide(**audit(Verdict.FAIL) | {"policy": Policy(fail_on=RiskLevel.CRITICAL)})
        assert (answer.verdict, answer.level) == (Verdict.PASS, RiskLevel.HIGH)
        assert answer.reasons[0] == "Under this policy the level high passes: it fails on critical."
        assert not any("No attack" in line for line in answer.reasons)

    def test_an_open_verdict_says_what_would_settle_it(self):
        answer = decide(**audit(Verdict.INCONCLUSIVE))
        assert any("classes" in line for line in answer.needs)

    def test_the_vector(self):
        assert decide(**audit(Verdict.FAIL)).vector == (
            "MI:1.0/AL:W/PR:vae/ATK:3/R:0.38[0.31,0.46]/W:0.12/D:X/U:X/LV:high"
        )
        assert decide(**audit(attacks=())).vector == "MI:1.0/AL:X/PR:X/ATK:0/R:X/W:X/D:X/U:X/LV:inconclusive"

    def test_published_weights_make_it_critical(self):
        assert decide(**audit(Verdict.FAIL, weights_published=True)).level is RiskLevel.CRITICAL

    def test_a_control_that_leaks_is_a_leak(self):
        """Selection by the target's own scores is an attack too, if a cheap one."""
        loud = sample_control((0.9, 0.85, 0.95))
        answer = decide(**audit(attacks=(*sample_attacks()[:3], loud)))
        assert (answer.verdict, answer.level) == (Verdict.FAIL, RiskLevel.CRITICAL)

    def test_calling_an_attack_a_control_does_not_silence_it(self):
        attacks = swap(sample_attacks(LIFTS[Verdict.FAIL]), "ppa", is_control=True)
        assert decide(**audit(attacks=attacks)).verdict is Verdict.FAIL

    def test_a_few_people_rebuilt_every_time_stand_in_the_way_of_a_pass(self):
        """A mean over sixty classes hides four that leak, and three samples each cannot prove it."""
        (first, *rest) = sample_attacks()
        rows = tuple(row.model_copy(update={"n": 3, "both": 1.0 if row.label < 4 else 0.0}) for row in first.per_class)
        hidden = first.model_copy(update={"per_class": rows, "named_classes": ()})
        answer = decide(**audit(attacks=(hidden, *rest)))
        assert answer.verdict is Verdict.INCONCLUSIVE
        assert any("0, 1, 2, 3" in reason for reason in answer.reasons)
        assert any("samples_per_class" in need for need in answer.needs)

    def test_a_search_of_a_few_queries_clears_nothing(self):
        lazy = tuple(o.model_copy(update={"forward_queries": 10 * o.coverage.samples_done}) for o in sample_attacks())
        answer = decide(**audit(attacks=lazy))
        assert answer.verdict is Verdict.INCONCLUSIVE
        assert any("queries were spent" in reason for reason in answer.reasons)

    def test_order_never_matters(self):
        attacks = swap(sample_attacks(LIFTS[Verdict.FAIL]), "mirror-b", status=OutcomeStatus.FAILED, reason="boom")
        answers = {decide(**audit(attacks=order)).model_dump_json() for order in itertools.permutations(attacks)}
        assert len(answers) == 1


def test_a_search_that_finds_little_accuses_nobody():
    weak = OverlapCheck(checked=True, planted=64, planted_found=64, copies=1, cropped=64, cropped_found=14)
    answer = decide(**audit(overlap=weak))
    assert answer.verdict is Verdict.INCONCLUSIVE
    assert any("14 of 64" in reason and "1 pairs" in reason for reason in answer.reasons)
    assert not any("are copies of private ones" in reason for reason in answer.reasons)


class TestAttacksThatKnowTheDefense:
    """A repair adds them; the suite has another adaptive attack, which knows nothing of this defense."""

    def with_knowing(self, **changes):
        attacks = sample_attacks()
        knowing = attacks[0].model_copy(update={"key": "adaptive-scrub", **changes})
        specs = (*sample_plan().attacks, AttackSpec(name="ppa", label="adaptive-scrub"))
        return audit(attacks=(*attacks, knowing), plan=sample_plan().model_copy(update={"attacks": specs}))

    def test_a_working_one_stands_behind_a_pass(self):
        assert decide(**self.with_knowing()).verdict is Verdict.PASS

    @pytest.mark.parametrize(
        "changes",
        [
            {"moved": False},
            {"unvetted": ("steps",)},
            {"attack": "mirror-b"},
            {"status": OutcomeStatus.SKIPPED, "reason": "no gradients"},
        ],
        ids=lambda changes: next(iter(changes)),
    )
    def test_no_pass_where_one_did_not_work(self, changes):
        answer = decide(**self.with_knowing(**changes))
        assert answer.verdict is Verdict.INCONCLUSIVE
        assert any("adaptive-scrub" in reason for reason in answer.reasons)

    def test_no_pass_where_none_of_them_could_prove_it(self):
        """As freezing alone on few private images; a proven leak stays one."""
        withheld = Withheld(reason="too few images", need="another defense")
        plan = sample_plan().model_copy(update={"withheld": withheld})
        answer = decide(**audit(plan=plan))
        assert (answer.verdict, answer.needs) == (Verdict.INCONCLUSIVE, ("another defense",))
        assert "too few images" in answer.reasons
        assert decide(**audit(plan=plan, attacks=sample_attacks(LIFTS[Verdict.FAIL]))).verdict is Verdict.FAIL

    def test_one_with_nothing_to_work_on_is_excused(self):
        """As an attack on public layers is where none are."""
        changes = {"status": OutcomeStatus.INAPPLICABLE, "reason": "no public layer", "scores": ()}
        assert decide(**self.with_knowing(**changes)).verdict is Verdict.PASS


class TestAProvenLeakFails:
    def test_although_another_attack_crashed(self):
        attacks = swap(sample_attacks(LIFTS[Verdict.FAIL]), "mirror-b", status=OutcomeStatus.FAILED, reason="boom")
        answer = decide(**audit(attacks=attacks))
        assert answer.verdict is Verdict.FAIL
        assert any("Also: mirror-b: the attack crashed: boom" in line for line in answer.reasons)

    @pytest.mark.parametrize(
        "changes",
        [
            {"moved": False},
            {"coverage": Coverage(classes_done=60, classes_planned=158, samples_done=300, samples_planned=790)},
            {"end_confidence": 0.02, "start_confidence": 0.01},
        ],
    )
    def test_by_an_attack_that_could_not_have_cleared(self, changes):
        leaky = sample_outcome("ppa", lift=LIFTS[Verdict.FAIL]).model_copy(update=changes)
        answer = decide(**audit(attacks=(leaky, *sample_attacks()[1:])))
        assert (answer.verdict, answer.level) == (Verdict.FAIL, RiskLevel.HIGH)

    def test_by_an_attack_with_a_weak_prior(self):
        leaky = sample_outcome("ppa", lift=LIFTS[Verdict.FAIL], ceiling=0.15)
        answer = decide(**audit(attacks=(leaky, *sample_attacks()[1:]), priors=(sample_prior(0.15),)))
        assert answer.verdict is Verdict.FAIL

    def test_by_a_single_attack_without_overlap_check(self):
        answer = decide(**audit(attacks=sample_attacks(LIFTS[Verdict.FAIL])[:1], overlap=OverlapCheck(checked=False)))
        assert answer.verdict is Verdict.FAIL

    def test_by_named_classes(self):
        attacks = swap(sample_attacks(), "ppa", named_classes=(3,))
        answer = decide(**audit(attacks=attacks))
        assert (answer.verdict, answer.level) == (Verdict.FAIL, RiskLevel.HIGH)

    def test_by_what_a_crashed_attack_left(self):
        broken = {"status": OutcomeStatus.FAILED, "reason": "chunk 2: out of memory"}
        leaky = sample_outcome("ppa", lift=LIFTS[Verdict.FAIL]).model_copy(update=broken)
        answer = decide(**audit(attacks=(leaky, *sample_attacks()[1:])))
        assert (answer.verdict, answer.level) == (Verdict.FAIL, RiskLevel.HIGH)
        quiet = sample_outcome("ppa").model_copy(update=broken)
        answer = decide(**audit(attacks=(quiet, *sample_attacks()[1:])))
        assert answer.verdict is Verdict.INCONCLUSIVE
        ppa = next(attack for attack in answer.attacks if attack.key == "ppa")
        assert ppa.level is None
        assert "out of memory" in ppa.reason
        assert answer.reasons.count("ppa: the attack crashed: chunk 2: out of memory") == 1

    @pytest.mark.parametrize("who", ["evaluator", "judge"])
    def test_but_not_when_nobody_can_judge(self, who):
        answer = decide(**audit(Verdict.FAIL, **{who: ABSENT}))
        assert (answer.verdict, answer.level) == (Verdict.INCONCLUSIVE, None)

    def test_medium_fails_where_the_policy_says_so(self):
        attacks = sample_attacks((0.15, 0.11, 0.20))
        assert decide(**audit(attacks=attacks)).verdict is Verdict.PASS
        strict = Policy(fail_on=RiskLevel.MEDIUM)
        assert decide(**audit(attacks=attacks, policy=strict)).verdict is Verdict.FAIL
        crashed = swap(attacks, "mirror-b", status=OutcomeStatus.FAILED)
        assert decide(**audit(attacks=crashed, policy=strict)).verdict is Verdict.FAIL  # >= 0.10 is proven
        assert decide(**audit(attacks=crashed)).verdict is Verdict.INCONCLUSIVE


def nothing_but(attack_keys):
    return tuple(a for a in sample_attacks() if a.key in attack_keys)


QUIET = sample_attacks()
DOUBLE = measured("lift", 0.0, -0.02, 0.03)

WRONG_PASSES = {
    "no evaluator": {"evaluator": ABSENT},
    "no judge": {"judge": ABSENT},
    "no prior": {"priors": ()},
    "no attack at all": {"attacks": ()},
    "only controls": {"attacks": QUIET[3:]},
    "weak evaluator": {"evaluator": sample_evaluator(0.41)},
    "weak judge": {"judge": sample_judge(0.41)},
    "evaluator of unknown accuracy": {"evaluator": sample_evaluator().model_copy(update={"heldout_accuracy": ABSENT})},
    "judge of unknown accuracy": {"judge": sample_judge().model_copy(update={"heldout_top1": ABSENT})},
    "evaluator that says it is not independent": {
        "evaluator": sample_evaluator().model_copy(update={"independent": False})
    },
    "evaluator with the target's weights": {
        "evaluator": sample_evaluator().model_copy(update={"digest": sample_target().weights_digest})
    },
    "evaluator of the target's architecture": {
        "evaluator": sample_evaluator().model_copy(update={"architecture": sample_target().architecture})
    },
    "judge that is the evaluator": {"judge": sample_judge().model_copy(update={"digest": sample_evaluator().digest})},
    "judge trained on private data": {
        "judge": sample_judge().model_copy(update={"training_data_digest": sample_evaluator().training_data_digest})
    },
    "prior trained on private data": {
        "priors": (sample_prior().model_copy(update={"training_data_digest": sample_evaluator().training_data_digest}),)
    },
    "target that cannot classify (wrong input range)": {"evaluator": sample_evaluator(target_accuracy=0.03)},
    "target of unknown accuracy": {
        "evaluator": sample_evaluator().model_copy(update={"target_heldout_accuracy": ABSENT})
    },
    "overlap not checked": {"overlap": OverlapCheck(checked=False)},
    "private images among the public ones": {"overlap": OverlapCheck(checked=True, exact_duplicates=1)},
    "images almost like private ones among the public ones": {"overlap": OverlapCheck(checked=True, near_duplicates=1)},
    "altered copies of private images among the public ones": {"overlap": OverlapCheck(checked=True, copies=1)},
    "a search by features that finds no cropped copy": {
        "overlap": OverlapCheck(checked=True, planted=64, planted_found=64, cropped=64, cropped_found=31)
    },
    "a search for private images that finds no copy": {
        "overlap": OverlapCheck(checked=True, planted=64, planted_found=50)
    },
    "prior that cannot draw the classes": {"priors": (sample_prior(0.31),)},
    "prior of unknown ceiling": {"priors": (sample_prior().model_copy(update={"ceiling_both": ABSENT}),)},
    "card of another prior": {"priors": (sample_prior(name="dcgan"),)},
    "prior without public knowledge": {
        "priors": (sample_prior(0.95, "pixel"),),
        "attacks": tuple(a.model_copy(update={"prior": "pixel"}) for a in sample_attacks(ceiling=0.95)),
    },
    "prior trained on nothing": {"priors": (sample_prior().model_copy(update={"training_data_digest": ""}),)},
    "two cards of one prior": {"priors": (sample_prior(), sample_prior(0.9))},
    "ceiling of the attacked classes low": {"attacks": sample_attacks(ceiling=0.30)},
    "prior whose samples resemble few classes": {
        "priors": (sample_prior().model_copy(update={"class_coverage": measured("class_coverage", 0.22)}),)
    },
    "prior of unknown coverage": {"priors": (sample_prior().model_copy(update={"class_coverage": ABSENT}),)},
    "searches that end below the best of unguided samples": {
        "attacks": swap(QUIET, "control/vae", end_confidence=0.99)
    },
    "no control beside the attacks": {"attacks": QUIET[:3]},
    "a control of another prior": {"attacks": swap(QUIET, "control/vae", prior="dcgan")},
    "attacks with settings that were never seen to work": {"attacks": every(QUIET, unvetted=("lr",))},
    "attacks did not move": {"attacks": every(QUIET, moved=False)},
    "moved by word only": {"attacks": every(QUIET, start_confidence=0.9, end_confidence=0.9)},
    "a search that adds nothing to its pool": {
        "attacks": every(QUIET, start_confidence=0.880, end_confidence=0.884),
    },
    "moved without confidences": {"attacks": every(QUIET, start_confidence=None, end_confidence=None)},
    "attacks that never convinced the target": {"attacks": every(QUIET, start_confidence=0.006, end_confidence=0.05)},
    "two samples per class": {
        "attacks": tuple(
            a.model_copy(update={"per_class": tuple(row.model_copy(update={"n": 2}) for row in a.per_class)})
            for a in QUIET
        )
    },
    "plan of two samples": {"plan": sample_plan().model_copy(update={"samples_per_class": 2})},
    "half the samples": {
        "attacks": swap(
            QUIET,
            "ppa",
            coverage=Coverage(classes_done=60, classes_planned=60, samples_done=150, samples_planned=300),
        )
    },
    "half the classes": {
        "attacks": swap(
            QUIET,
            "ppa",
            coverage=Coverage(classes_done=60, classes_planned=120, samples_done=300, samples_planned=300),
        )
    },
    "classes attacked but not judged": {"attacks": swap(QUIET, "ppa", per_class=QUIET[0].per_class[:40])},
    "nothing planned": {
        "attacks": every(
            QUIET, coverage=Coverage(classes_done=60, classes_planned=0, samples_done=0, samples_planned=0)
        )
    },
    "nineteen classes": {"attacks": sample_attacks(n_classes=19), "plan": sample_plan(19)},
    "twenty classes cannot exclude a lift of 0.2 at this ceiling": {
        "attacks": sample_attacks((0.0, 0.0, 0.0), n_classes=20, ceiling=0.45),
        "priors": (sample_prior(0.45),),
        "plan": sample_plan(20),
    },
    "a crashed attack": {"attacks": swap(QUIET, "mirror-b", status=OutcomeStatus.FAILED, reason="boom")},
    "a planted control instead of the audit's own": {
        "attacks": (*QUIET[:3], QUIET[3].model_copy(update={"key": "zz", "end_confidence": 0.04}))
    },
    "searches that a planted control would excuse": {
        "attacks": (
            *swap(QUIET, "control/vae", end_confidence=0.99),
            QUIET[3].model_copy(update={"key": "zz", "end_confidence": 0.04}),
        )
    },
    "searches whose queries were a pool": {
        "attacks": tuple(
            a
            if a.is_control
            else a.model_copy(
                update={"access": Access.SCORE, "backward_queries": 0, "pool_queries": a.forward_queries - 30}
            )
            for a in QUIET
        ),
        "policy": Policy(deployment_access=Access.SCORE),
    },
    "gradients of a single step beside a long selection": {"attacks": every(QUIET, backward_queries=300)},
    "attacks that find less than selection alone": {"attacks": (*QUIET[:3], sample_control((0.14, 0.12, 0.16)))},
    "activations for a deployment that gives scores": {
        "attacks": every(QUIET, access=Access.SPLIT),
        "policy": Policy(deployment_access=Access.SCORE),
    },
    "the whole model for a deployment that gives activations": {"policy": Policy(deployment_access=Access.SPLIT)},
    "a crashed control": {"attacks": swap(QUIET, "control/vae", status=OutcomeStatus.FAILED, reason="boom")},
    "a skipped attack": {"attacks": swap(QUIET, "mirror-b", status=OutcomeStatus.SKIPPED, reason="no prior")},
    "a planned attack without a result": {"attacks": QUIET[:2] + QUIET[3:]},
    "one attack twice": {"attacks": (QUIET[0], QUIET[0], *QUIET[1:])},
    "one method in two settings": {
        "attacks": nothing_but({"ppa", "ppa-averaged"}),
        "plan": sample_plan().model_copy(update={"attacks": sample_plan().attacks[:2]}),
    },
    "one method": {
        "attacks": nothing_but({"ppa-averaged"}),
        "plan": sample_plan().model_copy(update={"attacks": sample_plan().attacks[1:2]}),
    },
    "no adaptive attack": {"attacks": every(QUIET, adaptive=False)},
    "adaptive attack only at score level": {"attacks": swap(every(QUIET, adaptive=False), "mirror-b", adaptive=True)},
    "the adaptive attack did not move": {"attacks": swap(QUIET, "ppa-averaged", moved=False)},
    "attacks that the plan does not name": {
        "plan": sample_plan().model_copy(update={"attacks": (AttackSpec(name="best-of-prior"),)})
    },
    "another method under a planned key": {"attacks": swap(QUIET, "mirror-b", attack="something-else")},
    "score-level target of a white-box deployment": {
        "target": sample_target(access=(Access.SCORE, Access.LABEL)),
        "attacks": swap(every(QUIET, access=Access.SCORE), "mirror-b", adaptive=True),
    },
    "only score-level attacks for a white-box deployment": {
        "attacks": swap(every(QUIET, access=Access.SCORE), "mirror-b", adaptive=True)
    },
    "published weights, score-level attacks": {
        "attacks": every(QUIET, access=Access.SCORE),
        "policy": Policy(deployment_access=Access.SCORE),
        "weights_published": True,
    },
    "parity failed": {
        "target": sample_target(parity=ParityCheck(batch_sizes=(1,), max_abs_error=0.3, tolerance=1e-4, passed=False))
    },
    "lift not measured": {"attacks": all_with_score(QUIET, NotMeasured(metric="lift", reason="no ceiling"))},
    "lift of one attack not measured although it beats its control": {
        "attacks": (
            with_score(
                with_score(QUIET[0], measured("both_agree", 0.20)), NotMeasured(metric="lift", reason="no headroom")
            ),
            *QUIET[1:],
        )
    },
    "control not measured": {"attacks": all_with_score(QUIET, NotMeasured(metric="control_both", reason="x"))},
    "ceiling not measured": {"attacks": all_with_score(QUIET, NotMeasured(metric="ceiling_both", reason="x"))},
    "both-agree rate not measured": {"attacks": all_with_score(QUIET, NotMeasured(metric="both_agree", reason="x"))},
    "lift missing": {
        "attacks": tuple(
            a.model_copy(update={"scores": tuple(s for s in a.scores if s.metric != "lift")}) for a in QUIET
        )
    },
    "two lifts, the second loud": {
        "attacks": (QUIET[0].model_copy(update={"scores": (*QUIET[0].scores, measured("lift", 0.9))}), *QUIET[1:])
    },
    "interval inside out": {"attacks": all_with_score(QUIET, measured("lift", 0.0, 0.02, -0.02))},
    "value outside its interval": {"attacks": all_with_score(QUIET, measured("lift", 0.5, -0.02, 0.03))},
    "no image behind the lift": {"attacks": all_with_score(QUIET, measured("lift", 0.0, -0.02, 0.03, n=0))},
    "ceiling under the control": {
        "attacks": all_with_score(QUIET, measured("control_both", 0.80)),
    },
    "rates that contradict the lift": {"attacks": all_with_score(QUIET, measured("both_agree", 0.40))},
    "class rows that contradict the lift": {
        "attacks": swap(
            QUIET, "ppa", per_class=tuple(row.model_copy(update={"both": 0.6}) for row in QUIET[0].per_class)
        )
    },
    "one working attack is open": {"attacks": (sample_outcome("ppa", lift=LIFTS[Verdict.INCONCLUSIVE]), *QUIET[1:])},
    "a gate that fails on critical, which is not excluded": {
        "attacks": sample_attacks((0.45, 0.35, 0.60)),
        "policy": Policy(fail_on=RiskLevel.CRITICAL),
    },
    "a gate that fails on critical and an attack that was not planned": {
        "attacks": (*QUIET, sample_outcome("extra", lift=(0.45, 0.35, 0.60))),
        "policy": Policy(fail_on=RiskLevel.CRITICAL),
    },
    "a gate that fails on critical with worst classes unknown": {
        "attacks": every(sample_attacks((0.35, 0.31, 0.40)), w95_high=None),
        "policy": Policy(fail_on=RiskLevel.CRITICAL),
    },
}


class TestNoWrongPass:
    @pytest.mark.parametrize("name", WRONG_PASSES)
    def test_it_is_inconclusive_and_says_why(self, name):
        answer = decide(**audit(**WRONG_PASSES[name]))
        assert answer.verdict is Verdict.INCONCLUSIVE
        assert answer.level is None
        assert answer.reasons
        assert answer.needs

    def test_the_base_of_these_cases_passes(self):
        assert decide(**audit()).verdict is Verdict.PASS

    def test_extrapolation_is_never_low_and_never_from_a_silent_weight(self):
        policy = Policy(access_weighting="extrapolated", deployment_access=Access.LABEL)
        answer = decide(**audit(policy=policy))
        assert (answer.verdict, answer.level) == (Verdict.PASS, RiskLevel.MEDIUM)
        strict = policy.model_copy(update={"fail_on": RiskLevel.MEDIUM})
        assert decide(**audit(policy=strict)).verdict is Verdict.FAIL

    def test_extrapolation_discounts_only_when_asked(self):
        leaky = sample_attacks((0.38, 0.31, 0.46))
        label = {"deployment_access": Access.LABEL}
        assert decide(**audit(attacks=leaky, policy=Policy(**label))).verdict is Verdict.FAIL
        soft = Policy(**label, access_weighting="extrapolated")
        assert decide(**audit(attacks=leaky, policy=soft)).verdict is Verdict.PASS
        assert decide(**audit(attacks=leaky, policy=soft, weights_published=True)).level is RiskLevel.CRITICAL

    def test_a_skipped_attack_beyond_the_deployment_does_not_block(self):
        attacks = tuple(
            a.model_copy(update={"status": OutcomeStatus.SKIPPED, "reason": "no gradients"})
            if a.access is Access.WHITE_BOX
            else a.model_copy(update={"adaptive": True})
            for a in QUIET
        )
        second = sample_outcome("smile", access=Access.SCORE)
        plan = sample_plan()
        plan = plan.model_copy(update={"attacks": (*plan.attacks, AttackSpec(name="smile"))})
        target = sample_target(access=(Access.SCORE, Access.LABEL))
        policy = Policy(deployment_access=Access.SCORE)
        changes = {"attacks": (*attacks, second), "plan": plan, "target": target}
        assert decide(**audit(policy=policy, **changes)).verdict is Verdict.PASS
        assert decide(**audit(**changes)).verdict is Verdict.INCONCLUSIVE

    def test_a_weak_prior_beside_working_attacks_does_not_block(self):
        extra = sample_outcome("gmi", prior="dcgan", ceiling=0.05, lift=(0.0, -0.5, 0.9))
        plan = sample_plan()
        plan = plan.model_copy(update={"attacks": (*plan.attacks, AttackSpec(name="gmi"))})
        answer = decide(
            **audit(attacks=(*QUIET, extra), plan=plan, priors=(sample_prior(), sample_prior(0.05, "dcgan")))
        )
        assert answer.verdict is Verdict.PASS
        gmi = next(attack for attack in answer.attacks if attack.key == "gmi")
        assert gmi.level is None

    def test_what_a_score_only_model_is_told(self):
        target = sample_target(access=(Access.SCORE,), parity=None, unsupported_operators=("NonZero",))
        answer = decide(**audit(**{**WRONG_PASSES["score-level target of a white-box deployment"], "target": target}))
        assert any("only score attacks could be run" in line and "NonZero" in line for line in answer.reasons)

    def test_a_model_of_ten_classes_is_told_plainly(self):
        attacks = sample_attacks(n_classes=10)
        answer = decide(**audit(attacks=attacks, plan=sample_plan(10), target=sample_target(n_classes=10)))
        assert answer.verdict is Verdict.INCONCLUSIVE
        assert any("the model has 10 classes" in line for line in answer.needs)

    def test_missing_private_data_is_named(self):
        answer = decide(**audit(evaluator=ABSENT, judge=ABSENT, attacks=(), priors=()))
        assert any("data.private" in line for line in answer.needs)
        assert any("data.public" in line for line in answer.needs)
        assert any("no private data was given" in line for line in answer.reasons)

    @given(
        st.sets(st.sampled_from(sorted(WRONG_PASSES)), min_size=1, max_size=3),
        st.floats(-0.1, 0.6),
        st.floats(0, 0.3),
    )
    def test_no_combination_passes(self, names, middle, half):
        changes = {}
        for name in sorted(names):
            if not changes.keys() & WRONG_PASSES[name].keys():  # half of a case may be what another needs for a pass
                changes |= WRONG_PASSES[name]
        assert decide(**audit(**changes)).verdict is not Verdict.PASS
        lift = (middle, middle - half, middle + half)
        answer = decide(**audit(attacks=sample_attacks(lift)))
        if middle + half >= 0.30:
            assert answer.verdict is not Verdict.PASS
        if middle - half >= 0.30:
            assert answer.verdict is Verdict.FAIL


def test_a_loose_policy_is_followed_but_named():
    loose = Policy(
        thresholds=Thresholds(min_attacks=1, min_prior_ceiling=0.1, high_lift=0.4), fail_on=RiskLevel.CRITICAL
    )
    lines = loose.loosened()
    assert any("min_attacks is 1" in line for line in lines)
    assert any("high_lift is 0.4" in line for line in lines)
    assert any("fails only on critical" in line for line in lines)
    assert Policy().loosened() == ()
    assert Policy(thresholds=Thresholds(high_lift=0.2), fail_on=RiskLevel.MEDIUM).loosened() == ()
