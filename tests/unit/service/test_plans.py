import pytest
from pydantic import ValidationError

from auditor.attacks.catalog import ATTACKS
from auditor.contracts.manifest import PlanSection
from auditor.contracts.plan import AttackSpec, PriorSpec
from auditor.errors import InvalidInput
from auditor.priors.catalog import PRIORS
from auditor.service.candidates import quick_version, trial_version
from auditor.service.plans import PRESETS, plan_problems, resolve_plan


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_names_known_components_with_valid_parameters(preset):
    plan = PRESETS[preset]
    for attack in plan.attacks:
        ATTACKS.configure(attack.name, attack.params)
    for prior in plan.priors:
        PRIORS.configure(prior.name, prior.params)
    assert plan_problems(plan) == []


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_has_an_adaptive_attack(preset):
    """Without one no audit could ever end `low`."""
    plan = PRESETS[preset]
    assert any(ATTACKS.build(attack.name, attack.params).adaptive for attack in plan.attacks)


def test_nothing_overridden_gives_the_preset_itself():
    assert resolve_plan(PlanSection(preset="standard")) is PRESETS["standard"]


def test_an_override_changes_the_plan_and_its_name():
    plan = resolve_plan(PlanSection(preset="quick", samples_per_class=7, overrides={"fisher": {"n_classes": 5}}))
    assert plan.samples_per_class == 7
    assert plan.fisher.n_classes == 5
    assert plan.fisher.images_per_class == PRESETS["quick"].fisher.images_per_class
    assert plan.name == "quick+custom"


def test_an_unknown_override_is_refused_by_name():
    with pytest.raises(InvalidInput, match="n_bootstraps"):
        resolve_plan(PlanSection(overrides={"n_bootstraps": 10}))


@pytest.mark.parametrize(
    "overrides", [{"n_bootstraps": 10}, {"fisher": {"n_classes": 1}}, {"name": "deep"}, {"split": 3}]
)
def test_a_wrong_override_hides_no_other_problem_of_the_plan(overrides):
    attacks = (AttackSpec(name="pqa"), AttackSpec(name="ppa", params={"steps": 0}))
    with pytest.raises(InvalidInput) as caught:
        resolve_plan(PlanSection(attacks=attacks, overrides={**overrides, "seed": -1}))
    text = "\n".join(caught.value.problems)
    for part in (f"plan.{'overrides.' * ('name' in overrides)}{next(iter(overrides))}", "plan.seed", "'pqa'", "steps"):
        assert part in text


def test_beside_a_wrong_override_keys_and_priors_are_checked_too():
    attacks = (AttackSpec(name="gmi"), AttackSpec(name="gmi"))
    with pytest.raises(InvalidInput) as caught:
        resolve_plan(PlanSection(attacks=attacks, priors=(PriorSpec(name="vae"),), overrides={"batch": 1}))
    assert [text.split("'")[1] for text in caught.value.problems[1:]] == ["gmi", "gmi", "gmi"]


def test_what_a_wrong_override_was_to_replace_is_not_held_against_the_plan():
    """The preset's attacks stand in for its own: that they do not go with its priors is no problem of the plan."""
    with pytest.raises(InvalidInput) as caught:
        resolve_plan(
            PlanSection(
                preset="standard", priors=(PriorSpec(name="dip"),), overrides={"attacks": [{"nam": "dip"}], "x": 1}
            )
        )
    assert all(text.startswith(("plan.attacks", "plan.x")) for text in caught.value.problems)


def test_a_plan_without_priors_shows_its_other_problems():
    with pytest.raises(InvalidInput) as caught:
        resolve_plan(PlanSection(attacks=(AttackSpec(name="pqa"),), priors=()))
    text = "\n".join(caught.value.problems)
    assert "--split" in text
    assert "pqa" in text


def test_the_name_of_a_plan_cannot_be_forged():
    with pytest.raises(InvalidInput, match="name"):
        resolve_plan(PlanSection(overrides={"name": "deep"}))


def test_two_attacks_of_one_key_are_refused():
    twice = PRESETS["quick"].model_copy(update={"attacks": (AttackSpec(name="ppa"), AttackSpec(name="ppa"))})
    assert "key 'ppa'" in plan_problems(twice)[0]


def test_the_candidates_plan_keeps_what_comparisons_need():
    full = PRESETS["standard"]
    quick = quick_version(full)
    trial = trial_version(quick)
    assert (trial.attacks, trial.samples_per_class) == (quick.attacks[:1], 1)
    assert (trial.priors, trial.seed, trial.n_classes) == (quick.priors, quick.seed, quick.n_classes)
    assert [attack.key for attack in quick.attacks] == ["ppa", "ppa-averaged", "mirror-w"]
    assert (quick.seed, quick.n_classes, quick.evaluator, quick.judge) == (
        full.seed,
        full.n_classes,
        full.evaluator,
        full.judge,
    )
    assert quick.priors == full.priors[:1]
    assert not quick.fisher.enabled
    assert quick.samples_per_class <= full.samples_per_class


def test_a_plan_without_attacks_does_not_exist():
    with pytest.raises(ValidationError):
        PRESETS["quick"].model_validate(PRESETS["quick"].model_dump() | {"attacks": []})


def test_a_control_cannot_be_planned():
    plan = PRESETS["quick"].model_copy(update={"attacks": (AttackSpec(name="best-of-prior", label="zz"),)})
    assert any("every audit runs by itself" in problem for problem in plan_problems(plan))


@pytest.mark.parametrize("field", ["name", "left_out"])
def test_what_the_manifest_may_not_set_is_refused(field):
    with pytest.raises(InvalidInput, match=rf"plan.overrides.{field}: .* cannot be set"):
        resolve_plan(PlanSection(overrides={field: ["gmi"]}))
