import pytest
from pydantic import ValidationError

from auditor.attacks.catalog import ATTACKS
from auditor.contracts.manifest import PlanSection
from auditor.contracts.plan import AttackSpec
from auditor.errors import InvalidInput
from auditor.priors.catalog import PRIORS
from auditor.service.plans import PRESETS, plan_problems, quick_version, resolve_plan


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


def test_the_name_of_a_plan_cannot_be_forged():
    with pytest.raises(InvalidInput, match="name"):
        resolve_plan(PlanSection(overrides={"name": "deep"}))


def test_two_attacks_of_one_key_are_refused():
    twice = PRESETS["quick"].model_copy(update={"attacks": (AttackSpec(name="ppa"), AttackSpec(name="ppa"))})
    assert "key 'ppa'" in plan_problems(twice)[0]


def test_the_candidates_plan_keeps_what_comparisons_need():
    full = PRESETS["standard"]
    quick = quick_version(full)
    assert [attack.key for attack in quick.attacks] == ["ppa", "ppa-averaged"]
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
