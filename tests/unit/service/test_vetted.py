"""Only settings that an attack was seen to work with may clear a model."""

import pytest

from auditor.attacks.catalog import ATTACKS
from auditor.attacks.split.catalog import SPLIT_ATTACKS, catalog_of
from auditor.contracts.plan import AttackSpec
from auditor.service.candidates import EFFORT, UNSET, goals_around, with_adaptive
from auditor.service.plans import PRESETS, SPLIT
from auditor.service.vetted import unvetted
from remediation.defenses.confidence_adaptation import resting_confidence
from remediation.offers import OFFERS

PRESET_ROWS = [(name, attack) for name, plan in PRESETS.items() for attack in plan.attacks]
KNOWING = [(offer.name, attack) for offer in OFFERS.values() for attack in offer.adaptive]


@pytest.mark.parametrize(
    ("where", "attack"), PRESET_ROWS + KNOWING, ids=lambda value: str(getattr(value, "key", value))
)
def test_what_presets_and_repairs_run_counts(where, attack):
    assert unvetted(attack) == ()


@pytest.mark.parametrize("offer", OFFERS.values(), ids=lambda offer: offer.name)
@pytest.mark.parametrize("preset", ["quick", "standard", "deep"])
def test_attacks_that_know_a_defense_count_in_every_preset(preset, offer):
    plan = with_adaptive(PRESETS[preset], offer.adaptive)
    assert all(unvetted(attack) == () for attack in plan.attacks)


def test_an_attack_that_knows_a_defense_runs_as_long_as_the_plans_own():
    own = (
        AttackSpec(name="ppa", params={"steps": 15, "pool": 100, "lr": 9.0}),
        AttackSpec(name="ppa", label="b", params={"steps": 20, "averaged": 2}),
    )
    plan = with_adaptive(PRESETS["quick"].model_copy(update={"attacks": own}), OFFERS["tl-dmi"].adaptive)
    knowing = {attack.key: attack.params for attack in plan.attacks[2:]}
    assert knowing["adaptive-averaged"] == {"steps": 20, "pool": 2000, "averaged": 6}, "`b` draws the catalog's pool"
    assert knowing["adaptive-front"] == {"steps": 20, "pool": 2000, "averaged": 3, "front_weight": 0.1}


def test_a_small_plan_stays_small():
    """Where every attack of a name names its few steps, so do those that know the defense."""
    own = (AttackSpec(name="ppa", params={"steps": 8, "pool": 100}),)
    plan = with_adaptive(PRESETS["quick"].model_copy(update={"attacks": own}), OFFERS["confidence-adaptation"].adaptive)
    knowing = plan.attacks[1:]
    assert {(attack.params["steps"], attack.params["pool"]) for attack in knowing if attack.name == "ppa"} == {(8, 100)}
    others = {attack.key: attack.params for attack in knowing if attack.name != "ppa"}
    assert others == {"adaptive-label": {"iterations": 100, "patience": 20}, "adaptive-box": {"averaged": 8}}


OWN_PLANS = {
    **{name: plan.attacks for name, plan in PRESETS.items()},
    "more than the offer's": (
        AttackSpec(name="ppa", params={"candidates": 20, "averaged": 12, "steps": 500}),
        AttackSpec(name="brep-mi", params={"iterations": 1000, "patience": 200}),
        AttackSpec(name="mirror-b", params={"generations": 100}),
    ),
    "the catalog's": tuple(AttackSpec(name=name) for name in ("ppa", "brep-mi", "mirror-b")),
    "half of it set": (
        AttackSpec(name="ppa", params={"steps": 5}),
        AttackSpec(name="ppa", label="b", params={"candidates": 3}),
        AttackSpec(name="brep-mi", params={"iterations": 400}),
    ),
}


@pytest.mark.parametrize("offer", OFFERS.values(), ids=lambda offer: offer.name)
@pytest.mark.parametrize("own", OWN_PLANS.values(), ids=OWN_PLANS)
def test_no_attack_that_knows_a_defense_spends_less_than_the_plans_own(own, offer):
    """Of no parameter of effort less than it asks for itself, or than an attack of its name in the plan runs with."""

    def effort(attack):
        config = catalog_of(attack.name).configure(attack.name, attack.params).model_dump(mode="json")
        return {name: value for name, value in config.items() if name in EFFORT}

    plan = with_adaptive(PRESETS["quick"].model_copy(update={"attacks": own}), offer.adaptive)
    knowing = {attack.key: attack for attack in plan.attacks[len(own) :]}
    offers = [attack for attack in offer.adaptive if attack.prior is None]
    assert knowing.keys() == {attack.key for attack in offers}
    for offered in offers:
        spent, asked = effort(knowing[offered.key]), {k: v for k, v in offered.params.items() if k in EFFORT}
        for least in (asked, *(effort(attack) for attack in own if attack.name == offered.name)):
            assert {name: max(value, least.get(name, 0)) for name, value in spent.items()} == spent


@pytest.mark.parametrize(
    ("preset", "params"), [("quick", []), ("standard", [{"copies": 8}]), ("deep", [{"copies": 8, "steps": 600}])]
)
def test_a_prior_made_for_the_repaired_model_is_searched_where_the_plan_has_one(preset, params):
    plan = with_adaptive(PRESETS[preset], OFFERS["bido"].adaptive)
    assert [attack.params for attack in plan.attacks if attack.key == "adaptive-taught"] == params
    assert with_adaptive(plan, OFFERS["bido"].adaptive) == plan


@pytest.mark.parametrize("name", sorted({attack.name for offer in OFFERS.values() for attack in offer.adaptive}))
def test_what_is_spent_unset_is_the_catalogs_default(name):
    default = catalog_of(name).configure(name, {}).model_dump(mode="json")
    assert UNSET[name] == {parameter: value for parameter, value in default.items() if parameter in EFFORT}


def test_an_attack_that_is_there_is_not_added_again_and_one_with_other_knowledge_is():
    plan = with_adaptive(PRESETS["quick"], OFFERS["calor"].adaptive)
    assert with_adaptive(plan, OFFERS["calor"].adaptive) == plan
    capped = OFFERS["calor"].adaptive[-1]
    other = capped.model_copy(update={"params": capped.params | {"confidence": goals_around(0.3)}})
    twice = with_adaptive(plan, (other,))
    assert [attack.key for attack in twice.attacks[len(plan.attacks) :]] == ["adaptive-confidence-2"]
    assert with_adaptive(twice, (other, capped)) == twice


@pytest.mark.parametrize("gamma", [100, 8, 2, 1, 0.5])
def test_a_search_around_the_confidence_that_a_model_was_trained_to_counts_where_a_repair_makes_it(gamma):
    params = {"confidence": goals_around(resting_confidence(gamma)), "candidates": 5}
    assert resting_confidence(gamma) == pytest.approx(params["confidence"][1], rel=0.005)
    assert sorted(params["confidence"]) == params["confidence"]
    assert unvetted(AttackSpec(name="ppa", label="adaptive-confidence", params=params)) == ()
    assert unvetted(AttackSpec(name="ppa", label="own", params=params)), "goals of a plan's own can stop a search"
    short = params | {"candidates": 1, "lr": 9.0}
    assert set(unvetted(AttackSpec(name="ppa", label="adaptive-confidence", params=short))) == {"candidates", "lr"}


def test_what_a_cut_model_meets_counts():
    assert all(unvetted(attack) == () for attack in SPLIT)


@pytest.mark.parametrize("name", [*ATTACKS.names, *SPLIT_ATTACKS.names])
def test_the_catalogs_own_settings_count(name):
    assert unvetted(AttackSpec(name=name)) == ()


@pytest.mark.parametrize(
    ("name", "params", "short"),
    [
        ("ppa", {"confidence": [0.7], "candidates": 1, "steps": 100, "pool": 1}, {"pool", "candidates", "confidence"}),
        (
            "ppa",
            {"averaged": 2, "lr": 3.0, "latent_weight": 0, "shell_weight": 0},
            {"lr", "latent_weight", "shell_weight"},
        ),
        ("ppa", {"confidence": [0.5, 0.7, 0.88, 0.95, 1.0]}, {"candidates", "confidence"}),
        ("ppa", {"averaged": 4, "scrub": 16}, {"scrub"}),
        ("if-gmi", {"confidence": [0.7], "stages": 1}, {"confidence", "stages"}),
        ("mirror-w", {"box": 200, "lr": 9.0}, {"box", "lr"}),
        ("mirror-b", {"stop_confidence": 0.7}, {"stop_confidence"}),
        ("brep-mi", {"search": 100}, {"search"}),
        ("inverse-network", {"decoder": {"steps": 1}}, {"decoder.steps"}),
    ],
)
def test_a_crippled_search_is_named_by_what_cripples_it(name, params, short):
    """The first two and `mirror-w` with `box` passed a model of which the same attacks by default rebuilt everybody."""
    assert set(unvetted(AttackSpec(name=name, params=params))) <= short
    assert unvetted(AttackSpec(name=name, params=params))


def test_more_effort_counts():
    more = {"steps": 500, "candidates": 9, "averaged": 12, "pool": 50_000, "channels_last": False}
    assert unvetted(AttackSpec(name="ppa", params=more)) == ()
    assert unvetted(AttackSpec(name="brep-mi", params={"search": 6000, "patience": 30, "iterations": 100})) == ()


def test_every_name_of_effort_is_some_attacks_parameter():
    known = {
        field for catalog in (ATTACKS, SPLIT_ATTACKS) for attack in catalog for field in attack.Config.model_fields
    }
    decoder = {"steps"}
    assert known | decoder >= EFFORT
