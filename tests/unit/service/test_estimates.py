"""Counts times rates: what each attack of a plan sends, and how that becomes time and memory."""

import pytest

from auditor.attacks.catalog import ATTACKS
from auditor.contracts.access import Access
from auditor.contracts.estimate import PriorRates, Rate, Rates, Training
from auditor.contracts.jobs import AttackReadiness
from auditor.contracts.plan import AttackSpec, AuditPlan, FisherSpec, PriorSpec
from auditor.contracts.policy import Policy
from auditor.service.estimates import estimate_plan, fisher_passes, unit_costs
from auditor.service.plans import PRESETS

POLICY = Policy()
PLAN = AuditPlan(
    name="p",
    attacks=(AttackSpec(name="gmi", params={"steps": 10}), AttackSpec(name="mirror-b", params={"pool": 100})),
    priors=(PriorSpec(name="vae"), PriorSpec(name="dcgan")),
    n_classes=5,
    samples_per_class=2,
    classes_per_unit=2,
    batch_size=64,
)
PRIOR = PriorRates(
    decode=Rate(call_s=0, image_s=0.001, image_bytes=10),
    gradient=Rate(call_s=0, image_s=0.01, image_bytes=100),
    training=Training(seconds=50),
    queries=7,
    refine_steps=20,
)
RATES = Rates(
    device="cpu",
    probe_s=1,
    forward=Rate(call_s=0, image_s=0.1, image_bytes=1000),
    gradient=Rate(call_s=0, image_s=0.5, image_bytes=5000),
    priors={"vae": PRIOR, "dcgan": PRIOR},
    evaluator=Training(seconds=11),
    judge=Training(seconds=13),
    n_images={"private": 100, "public": 100},
    weights_bytes=10**6,
    unit_s=2,
)


def rows(plan=PLAN, **options):
    return {row.key: row for row in estimate_plan(plan, POLICY, **options).attacks}


def test_every_attack_has_one_control_for_each_prior_in_use():
    found = rows(n_classes=10)
    assert list(found) == ["gmi", "mirror-b", "control/dcgan", "control/vae"]
    assert [row.prior for row in found.values()] == ["dcgan", "vae", "dcgan", "vae"]
    assert found["control/vae"].is_control


def test_counts_are_those_of_every_unit():
    """Five classes in units of two: the pool is scored in each of the three units."""
    found = rows(n_classes=10)
    assert found["gmi"].cost.forward == found["gmi"].cost.backward == 5 * 2 * 10
    assert found["gmi"].per_class == 20
    assert found["mirror-b"].cost.shared == 3 * 100
    assert found["mirror-b"].per_class == 2 * 29 * 20
    assert found["mirror-b"].seconds is None


def test_no_more_classes_than_the_target_has():
    assert estimate_plan(PLAN, POLICY, n_classes=3).n_attacked == 3
    assert rows(n_classes=3)["gmi"].cost.forward == 3 * 2 * 10


def test_without_a_number_of_classes_counts_are_of_one():
    everything = PLAN.model_copy(update={"n_classes": None})
    found = estimate_plan(everything, POLICY)
    assert found.n_attacked is None
    assert found.attacks[0].cost.forward == 20


def test_a_query_budget_bounds_the_counts():
    limited = PLAN.model_copy(update={"max_queries": 30})
    (first, second, third) = unit_costs(ATTACKS.build("gmi", {"steps": 10}), limited, 5, 10)
    assert [first.forward, second.forward, third.forward] == [30, 30, 20]
    assert first.bound
    assert not third.bound


def test_time_is_counts_times_rates():
    found = rows(n_classes=10, rates=RATES)["gmi"]
    passes = 100 * 0.5 + 2 * 10 * 0.001 + 100 * 0.01
    assert found.seconds == pytest.approx(passes + 3 * 2)
    assert found.memory_bytes == 10**6 + 40 * (5000 + 100)


def test_the_first_call_of_a_batch_counts():
    assert Rate(call_s=1, image_s=0.1, image_bytes=0).seconds(100, 50) == pytest.approx(10 + 2)


def test_training_a_prior_that_asks_the_target_counts_as_shared():
    assert rows(n_classes=10, rates=RATES)["gmi"].shared == 7


def test_the_total_is_the_sum_of_what_is_shown():
    found = estimate_plan(PLAN, POLICY, n_classes=10, rates=RATES)
    steps = {step.name: step.seconds for step in found.steps}
    assert steps["evaluator"] == 11
    assert steps["judge"] == 13
    assert steps["prior vae"] == 50
    assert found.seconds == pytest.approx(sum(steps.values()) + sum(row.seconds for row in found.attacks))


def test_what_cannot_run_costs_nothing_and_says_why():
    ready = [
        AttackReadiness(key="gmi", runnable=False, reason="score level only", prior="dcgan", access=Access.WHITE_BOX),
        AttackReadiness(key="mirror-b", runnable=True, prior="vae", access=Access.SCORE),
    ]
    found = estimate_plan(PLAN, POLICY, n_classes=10, rates=RATES, readiness=ready)
    by_key = {row.key: row for row in found.attacks}
    assert by_key["gmi"].reason == "score level only"
    assert by_key["gmi"].seconds is None
    assert "control/dcgan" not in by_key
    assert "fisher" not in {step.name for step in found.steps}
    assert any("white-box" in reason for reason in found.obstacles)


def test_attacks_on_a_cut_model_are_listed_without_a_cost():
    cut = AuditPlan(name="p", attacks=(AttackSpec(name="rmle"),), priors=(), split="layer")
    found = estimate_plan(cut, POLICY, n_classes=10, rates=RATES.model_copy(update={"priors": {}}))
    assert [(row.access, row.cost) for row in found.attacks] == [(Access.SPLIT, None)]
    assert found.unknown == ("rmle",)


def test_the_effort_is_what_the_gate_will_count():
    """Gradients of a white-box search, queries without the pool otherwise; LOKT's are those of its prior's training."""
    plan = PLAN.model_copy(update={"attacks": (*PLAN.attacks, AttackSpec(name="lokt"), AttackSpec(name="ppa"))})
    plan = plan.model_copy(update={"priors": (*plan.priors, PriorSpec(name="tac-gan")), "classes_per_unit": 9})
    found = rows(plan, n_classes=10)
    assert found["gmi"].effort == 10
    assert found["mirror-b"].effort == 29 * 20
    assert found["ppa"].effort == 2 * 60
    assert found["lokt"].effort is None
    measured = RATES.model_copy(update={"priors": {**RATES.priors, "tac-gan": PRIOR}})
    assert rows(plan, n_classes=10, rates=measured)["lokt"].effort == 7 / (5 * 2)


def test_a_plan_whose_searches_are_all_too_short_cannot_pass():
    """By its parameters alone, as `auditor plan` sees it without a model."""
    attacks = (
        AttackSpec(name="ppa", params={"averaged": 3, "steps": 10, "candidates": 1}),
        AttackSpec(name="gmi", params={"steps": 99}),
        AttackSpec(name="mirror-b"),
    )
    plan = PRESETS["quick"].model_copy(update={"attacks": attacks, "priors": PLAN.priors})
    found = estimate_plan(plan, POLICY, n_classes=100).obstacles
    assert any("no attack that can count" in reason for reason in found)
    assert any("ppa (30), gmi (99)" in reason for reason in found)
    lenient = Policy(thresholds={"min_queries_per_sample": 30})
    found = estimate_plan(plan, lenient, n_classes=100).obstacles
    assert not any("too few queries" in reason for reason in found)
    assert any("never seen to work" in reason and "ppa (candidates, steps), gmi (steps)" in reason for reason in found)


def test_layer_scores_by_hand():
    """4 private images with 2 sampled labels and the observed one, a prior picture each; 3 points of 2 x 2 rows with
    the label aimed at and 2 sampled ones, for each attack that is followed."""
    spec = FisherSpec(n_classes=2, images_per_class=2, label_samples=2, exact_up_to=5, trajectory=(0.0, 0.5, 1.0))
    plan = PLAN.model_copy(update={"fisher": spec, "classes_per_unit": 9})
    assert fisher_passes(plan, attacked=5, n_classes=10, n_followed=1) == 4 * 2 + 4 + 4 + 3 * 4 * 3
    assert fisher_passes(plan, attacked=5, n_classes=5, n_followed=2) == 4 * 5 + 4 + 4 + 2 * 3 * 4 * 3


@pytest.mark.parametrize("preset", PRESETS)
def test_every_attack_of_a_preset_can_be_estimated(preset):
    """The budget could not choose otherwise; and nothing known beforehand may stand in the way of a pass."""
    found = estimate_plan(PRESETS[preset], POLICY, n_classes=100, rates=RATES)
    assert found.unknown == ()
    assert found.obstacles == ()
