"""What the gate makes of attacks on a cut model."""

from auditor.contracts.access import Access
from auditor.contracts.cards import OverlapCheck
from auditor.contracts.plan import AttackSpec, AuditPlan
from auditor.contracts.policy import Policy, RiskLevel, Verdict
from auditor.contracts.scores import NotMeasured
from auditor.risk.decide import decide
from auditor.testing.reports import LIFTS, measured, sample_evaluator, sample_judge, sample_outcome, sample_target

NAMES = ("inverse-network", "rmle")
SPLIT_POLICY = Policy(deployment_access=Access.SPLIT)


def outcome(
    name,
    lift=LIFTS[Verdict.PASS],
    psnr=(21.0, 20.5, 21.5),
    control=(14.0, 13.5, 14.5),
    mean_image=(15.0, 14.5, 15.5),
    **changes,
):
    given = sample_outcome(
        name, access=Access.SPLIT, prior="none", lift=lift, adaptive=name == "inverse-network", w95_high=0.2
    )
    fidelity = {"psnr": psnr, "control_psnr": control, "mean_image_psnr": mean_image}
    scores = (*given.scores, *(measured(metric, *values) for metric, values in fidelity.items()))
    queries = 400 * given.coverage.samples_done if name == "rmle" else 0
    return given.model_copy(
        update={
            "scores": scores,
            "forward_queries": queries,
            "backward_queries": queries,
            "end_confidence": 0.6,
            **changes,
        }
    )


def verdict(attacks, *, policy=SPLIT_POLICY, access=(Access.WHITE_BOX, Access.SPLIT, Access.SCORE, Access.LABEL)):
    plan = AuditPlan(
        name="cut", attacks=tuple(AttackSpec(name=name) for name in NAMES), priors=(), split="layer1", n_classes=60
    )
    return decide(
        attacks=attacks,
        evaluator=sample_evaluator(),
        judge=sample_judge(),
        priors=(),
        overlap=OverlapCheck(checked=True),
        plan=plan,
        policy=policy,
        weights_published=False,
        target=sample_target(access=access),
    )


def test_a_proven_leak_at_the_cut_fails_without_any_prior():
    found = verdict([outcome(name, LIFTS[Verdict.FAIL]) for name in NAMES])
    assert (found.verdict, found.level) == (Verdict.FAIL, RiskLevel.HIGH)


def test_attacks_that_work_and_find_nothing_pass_where_the_policy_says_that_the_server_is_the_attacker():
    found = verdict([outcome(name) for name in NAMES])
    assert found.verdict is Verdict.PASS, found.reasons
    assert found.vector.startswith("MI:1.0/AL:P/PR:none/")


def test_they_say_nothing_about_an_attacker_with_the_weights():
    found = verdict([outcome(name) for name in NAMES], policy=Policy())
    assert found.verdict is Verdict.INCONCLUSIVE
    assert any("white-box" in reason for reason in found.reasons)


def test_an_attack_that_comes_no_nearer_than_another_image_would_clears_nothing():
    for changes in (
        {"psnr": (14.2, 13.8, 14.6)},
        {"psnr": (15.2, 14.8, 15.4)},
        {"mean_image": (20.0, 19.0, 20.6)},
        {"moved": False},
        {"end_confidence": 0.1105},
        {"end_confidence": 0.4},
    ):
        found = verdict([outcome("inverse-network", **changes), outcome("rmle")])
        assert found.verdict is Verdict.INCONCLUSIVE, changes
    blind = outcome("inverse-network")
    kept = tuple(score for score in blind.scores if score.metric != "psnr")
    blind = blind.model_copy(update={"scores": (*kept, NotMeasured(metric="psnr", reason="x"))})
    assert verdict([blind, outcome("rmle")]).verdict is Verdict.INCONCLUSIVE


def test_what_asks_for_every_image_owes_queries_and_what_learnt_beforehand_does_not():
    """A descent of one step shows the picture it started from, which is another attack's."""
    lazy = outcome("rmle", forward_queries=300, backward_queries=300)
    found = verdict([outcome("inverse-network"), lazy])
    assert found.verdict is Verdict.INCONCLUSIVE
    assert any("rmle: only 1 queries" in reason for reason in found.reasons)
    assert verdict([outcome(name) for name in NAMES]).verdict is Verdict.PASS


def test_without_public_images_there_is_no_baseline_to_beat():
    given = outcome("rmle")
    kept = tuple(score for score in given.scores if score.metric != "mean_image_psnr")
    blind = (*kept, NotMeasured(metric="mean_image_psnr", reason="no public data was given"))
    found = verdict([outcome("inverse-network"), given.model_copy(update={"scores": blind})])
    assert found.verdict is Verdict.INCONCLUSIVE
    assert any("mean public image" in reason for reason in found.reasons)


def test_a_weak_attack_beside_two_that_work_does_not_stand_in_the_way_but_may_still_prove_a_leak():
    weak = outcome("query-free", psnr=(13.0, 12.0, 14.0))
    assert verdict([*(outcome(name) for name in NAMES), weak]).verdict is Verdict.PASS
    leak = outcome("query-free", LIFTS[Verdict.FAIL], psnr=(13.0, 12.0, 14.0))
    assert verdict([*(outcome(name) for name in NAMES), leak]).verdict is Verdict.FAIL


def test_images_that_nobody_recognises_clear_nothing():
    def dim(name):
        given = outcome(name)
        kept = tuple(s for s in given.scores if s.metric != "ceiling_both")
        return given.model_copy(update={"scores": (*kept, measured("ceiling_both", 0.2))})

    found = verdict([dim(name) for name in NAMES])
    assert found.verdict is Verdict.INCONCLUSIVE
    assert any("private images themselves" in reason for reason in found.reasons)


def test_a_target_that_is_not_cut_cannot_have_been_attacked_there():
    found = verdict([outcome(name) for name in NAMES], access=(Access.WHITE_BOX, Access.SCORE, Access.LABEL))
    assert found.verdict is Verdict.INCONCLUSIVE
