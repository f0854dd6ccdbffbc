"""Only settings that an attack was seen to work with may clear a model."""

import pytest

from auditor.attacks.catalog import ATTACKS
from auditor.attacks.split.catalog import SPLIT_ATTACKS
from auditor.contracts.plan import AttackSpec
from auditor.service.candidates import EFFORT, with_adaptive
from auditor.service.plans import PRESETS, SPLIT
from auditor.service.vetted import unvetted
from remediation.offers import OFFERS

PRESET_ROWS = [(name, attack) for name, plan in PRESETS.items() for attack in plan.attacks]
KNOWING = [(offer.name, attack) for offer in OFFERS.values() for attack in offer.adaptive]


@pytest.mark.parametrize(
    ("where", "attack"), PRESET_ROWS + KNOWING, ids=lambda value: str(getattr(value, "key", value))
)
def test_what_presets_and_repairs_run_counts(where, attack):
    assert unvetted(attack.name, attack.params) == ()


@pytest.mark.parametrize("offer", OFFERS.values(), ids=lambda offer: offer.name)
@pytest.mark.parametrize("preset", ["quick", "standard", "deep"])
def test_attacks_that_know_a_defense_count_in_every_preset(preset, offer):
    plan = with_adaptive(PRESETS[preset], offer.adaptive)
    assert all(unvetted(attack.name, attack.params) == () for attack in plan.attacks)


def test_an_attack_that_knows_a_defense_runs_as_long_as_the_plans_own():
    own = (
        AttackSpec(name="ppa", params={"steps": 15, "pool": 100, "lr": 9.0}),
        AttackSpec(name="ppa", label="b", params={"steps": 20, "averaged": 2}),
    )
    plan = with_adaptive(PRESETS["quick"].model_copy(update={"attacks": own}), OFFERS["tl-dmi"].adaptive)
    knowing = {attack.key: attack.params for attack in plan.attacks[2:]}
    assert knowing["adaptive-averaged"] == {"steps": 20, "pool": 100, "averaged": 6}
    assert knowing["adaptive-front"] == {"steps": 20, "pool": 100, "averaged": 3, "front_weight": 0.1}


def test_what_a_cut_model_meets_counts():
    assert all(unvetted(attack.name, attack.params) == () for attack in SPLIT)


@pytest.mark.parametrize("name", [*ATTACKS.names, *SPLIT_ATTACKS.names])
def test_the_catalogs_own_settings_count(name):
    assert unvetted(name, {}) == ()


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
    assert set(unvetted(name, params)) <= short
    assert unvetted(name, params)


def test_more_effort_counts():
    assert (
        unvetted("ppa", {"steps": 500, "candidates": 9, "averaged": 12, "pool": 50_000, "channels_last": False}) == ()
    )
    assert unvetted("brep-mi", {"search": 6000, "patience": 30, "iterations": 100}) == ()


def test_every_name_of_effort_is_some_attacks_parameter():
    known = {
        field for catalog in (ATTACKS, SPLIT_ATTACKS) for attack in catalog for field in attack.Config.model_fields
    }
    decoder = {"steps"}
    assert known | decoder >= EFFORT
