"""Which attacks a time budget keeps; times are made up, so that every choice can be worked out by hand."""

from itertools import combinations

import pytest

from auditor.contracts.access import Access
from auditor.contracts.cards import OverlapCheck
from auditor.contracts.estimate import AttackEstimate, PlanEstimate, Rate, Rates, StepEstimate
from auditor.contracts.plan import AttackSpec, AuditPlan, PriorSpec
from auditor.contracts.policy import Policy, Thresholds, Verdict
from auditor.errors import InvalidInput
from auditor.risk.decide import decide
from auditor.service.budget import cut_to_budget, obstacles
from auditor.service.plans import omissions
from auditor.testing.evidence import (
    sample_attacks,
    sample_evaluator,
    sample_judge,
    sample_plan,
    sample_prior,
    sample_target,
)

POLICY = Thresholds()
NOTHING = Rate(call_s=0, image_s=0, image_bytes=0)
RATES = Rates(device="cpu", probe_s=1, forward=NOTHING)


def row(key, seconds, *, attack=None, access=Access.WHITE_BOX, prior="vae", adaptive=False, **changes):
    return AttackEstimate(
        key=key, attack=attack or key, access=access, prior=prior, adaptive=adaptive, seconds=seconds, **changes
    )


PPA = row("ppa", 30)
AVERAGED = row("ppa-averaged", 60, attack="ppa", adaptive=True)
GMI = row("gmi", 40, prior="dcgan")
MIRROR = row("mirror-b", 50, access=Access.SCORE)
CONTROLS = tuple(
    row(f"control/{prior}", 5, attack="best-of-prior", access=Access.SCORE, prior=prior, is_control=True)
    for prior in ("vae", "dcgan")
)
STEPS = (
    StepEstimate(name="evaluator", seconds=20),
    StepEstimate(name="prior vae", seconds=10, prior="vae"),
    StepEstimate(name="prior dcgan", seconds=300, prior="dcgan"),
    StepEstimate(name="fisher", seconds=7),
)


def estimate(*rows, steps=STEPS):
    plan = AuditPlan(
        name="p",
        attacks=tuple(AttackSpec(name=r.attack, label=r.key) for r in rows),
        priors=(PriorSpec(name="vae"), PriorSpec(name="dcgan")),
    )
    return PlanEstimate(plan=plan, attacks=(*rows, *CONTROLS), steps=steps, rates=RATES)


def cut(budget_s, *rows, deployment=Access.WHITE_BOX, policy=POLICY):
    plan = cut_to_budget(estimate(*rows), budget_s, policy, deployment)
    return [spec.key for spec in plan.attacks], plan


EVERYTHING = (PPA, AVERAGED, GMI, MIRROR)


def test_a_plan_that_fits_is_not_touched():
    whole = estimate(*EVERYTHING)
    assert whole.seconds == 30 + 60 + 40 + 50 + 10 + 20 + 10 + 300 + 7
    assert cut_to_budget(whole, whole.seconds, POLICY, Access.WHITE_BOX) is whole.plan


def test_the_core_of_a_verdict_comes_first_and_a_dear_prior_goes():
    """Evaluator 20, VAE 10 with its control 5, averaged PPA 60, MIRROR 50: 145 s, with the layer scores 152 s."""
    keys, plan = cut(152, *EVERYTHING)
    assert keys == ["ppa-averaged", "mirror-b"]
    assert [prior.name for prior in plan.priors] == ["vae"]
    assert plan.fisher.enabled
    assert plan.left_out == ("ppa", "gmi")
    assert plan.name == "p+budget"


def test_layer_scores_go_before_the_core_does():
    keys, plan = cut(151.9, *EVERYTHING)
    assert keys == ["ppa-averaged", "mirror-b"]
    assert not plan.fisher.enabled
    assert plan.left_out == ("ppa", "gmi", "fisher")


def test_what_still_fits_is_added_after_the_core():
    assert cut(182, *EVERYTHING)[0] == ["ppa-averaged", "mirror-b", "ppa"]


def test_a_new_method_goes_before_another_variant_of_one_that_is_there():
    other = row("kedmi", 30)
    assert cut(182, PPA, AVERAGED, MIRROR, other)[0] == ["ppa-averaged", "mirror-b", "kedmi"]


def test_what_can_count_goes_before_what_cannot():
    """A picture descent without public knowledge is a new method, but a pass cannot rest on it."""
    blind = row("pixel-tv", 30, prior="pixel")
    assert cut(182, PPA, AVERAGED, MIRROR, blind)[0] == ["ppa-averaged", "mirror-b", "ppa"]


def test_a_quick_method_completes_the_core_where_the_strong_one_does_not_fit():
    """MIRROR is stronger than `mi-face`, but there is no time for it."""
    weak = row("mi-face", 2)
    assert cut(97, AVERAGED, MIRROR, weak)[0] == ["ppa-averaged", "mi-face"]


def test_without_time_for_a_core_the_strongest_that_fits_runs_and_no_pass_is_promised():
    keys, plan = cut(70, *EVERYTHING)
    assert keys == ["ppa"]
    found = obstacles(plan, [PPA], 60, POLICY, Access.WHITE_BOX)
    assert len(found) == 2
    assert "built to see through a defense" in found[0]
    assert "the policy asks for 2" in found[1]


def test_nothing_that_fits_is_an_error_that_says_how_long_it_would_take():
    with pytest.raises(InvalidInput, match="about 65 s"):
        cut(64, *EVERYTHING)


def test_a_score_level_deployment_takes_its_core_from_what_reaches_it():
    """An adaptive white-box attack covers a score-level deployment; without it there is no core."""
    assert cut(152, *EVERYTHING, deployment=Access.SCORE)[0] == ["ppa-averaged", "mirror-b"]
    adaptive_label = row("brep-mi", 10, access=Access.LABEL, adaptive=True)
    keys, plan = cut(60, adaptive_label, MIRROR, deployment=Access.SCORE)
    assert keys == ["brep-mi"]
    assert any("score" in reason for reason in obstacles(plan, [adaptive_label], 60, POLICY, Access.SCORE))


def test_what_cannot_run_and_planned_controls_stay():
    idle = row("kedmi", None, runnable=False, reason="needs a prior")
    control = row("best-of-prior", 5, access=Access.SCORE, is_control=True)
    keys, plan = cut(151.9, *EVERYTHING, idle, control)
    assert keys == ["ppa-averaged", "mirror-b", "kedmi", "best-of-prior"]
    assert "kedmi" not in plan.left_out


def test_an_attack_of_unknown_time_is_left_out():
    unknown = row("new", None)
    keys, plan = cut(1e6, *EVERYTHING, unknown)
    assert "new" not in keys
    assert "new" in plan.left_out


def test_the_choice_does_not_depend_on_the_order_of_the_plan():
    assert cut(182, *EVERYTHING)[0] == cut(182, *reversed(EVERYTHING))[0]


def test_a_prior_that_knows_nothing_is_no_obstacle_removed():
    drawn = row("ppa-averaged", 60, attack="ppa", adaptive=True, prior="pixel")
    assert obstacles(estimate(PPA).plan, [drawn, MIRROR], 60, POLICY, Access.WHITE_BOX)


def test_an_attack_too_light_for_the_policy_completes_no_core_and_is_named():
    """Its parameters send 80 queries for each picture where the policy asks for 100: no outcome of it can count."""
    light = row("mirror-b", 5, access=Access.SCORE, effort=80)
    enough = row("mirror-b", 5, access=Access.SCORE, effort=100)
    plan = estimate(PPA).plan
    assert obstacles(plan, [AVERAGED, enough], 60, POLICY, Access.WHITE_BOX) == ()
    methods, queries = obstacles(plan, [AVERAGED, light], 60, POLICY, Access.WHITE_BOX)
    assert "1 attack method(s)" in methods
    assert "mirror-b (80)" in queries
    heavy = row("mirror-w", 50)
    assert cut(148, AVERAGED, light, heavy)[0] == ["ppa-averaged", "mirror-w"]


def test_settings_of_one_method_and_attacks_on_a_cut_model_are_no_second_method():
    split = row("rmle", 5, access=Access.SPLIT, prior=None)
    found = obstacles(estimate(PPA).plan, [PPA, AVERAGED, split], 60, POLICY, Access.WHITE_BOX)
    assert found == ("1 attack method(s) can count, and the policy asks for 2",)


def test_obstacles_of_size():
    plan = estimate(PPA).plan.model_copy(update={"samples_per_class": 2})
    found = obstacles(plan, [AVERAGED, MIRROR], 10, POLICY, Access.WHITE_BOX)
    assert len(found) == 2
    assert "2 samples per class" in found[0]
    assert "10 classes" in found[1]


def test_the_report_says_what_was_left_out():
    _, plan = cut(151.9, *EVERYTHING)
    lines = omissions(plan)
    assert "ppa, gmi" in lines[0]
    assert "layer scores" in lines[1]
    assert omissions(estimate(PPA).plan) == ()


@pytest.mark.parametrize("deployment", [Access.WHITE_BOX, Access.SCORE])
@pytest.mark.parametrize(
    "kept", [keys for n in (1, 2, 3) for keys in combinations(("ppa", "ppa-averaged", "mirror-b"), n)]
)
def test_obstacles_are_what_the_gate_says_of_a_plan_cut_so_far(kept, deployment):
    """Whatever a budget leaves: a quiet audit of it passes exactly where no obstacle was foreseen."""
    outcomes = [o for o in sample_attacks() if o.key in kept or o.is_control]
    whole = sample_plan()
    plan = whole.model_copy(
        update={
            "attacks": tuple(spec for spec in whole.attacks if spec.key in (*kept, "best-of-prior")),
            "left_out": tuple({"ppa", "ppa-averaged", "mirror-b"} - set(kept)),
        }
    )
    policy = Policy(deployment_access=deployment)
    verdict = decide(
        attacks=outcomes,
        evaluator=sample_evaluator(),
        judge=sample_judge(),
        priors=(sample_prior(),),
        overlap=OverlapCheck(checked=True),
        plan=plan,
        policy=policy,
        weights_published=False,
        target=sample_target(),
    ).verdict
    rows = [row(o.key, 1, attack=o.attack, access=o.access, adaptive=o.adaptive) for o in outcomes if not o.is_control]
    foreseen = obstacles(plan, rows, 60, policy.thresholds, deployment)
    assert (verdict is Verdict.PASS) == (foreseen == ()), (verdict, foreseen)
    assert verdict is not Verdict.FAIL
