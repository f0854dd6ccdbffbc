"""Everything that a plan names is checked against the catalogs, and all problems come at once."""

import pytest

from auditor.attacks.catalog import ATTACKS
from auditor.contracts.access import Access
from auditor.contracts.plan import AttackSpec, AuditPlan, EvaluatorSpec, FisherSpec, PriorSpec
from auditor.priors.catalog import PRIORS
from auditor.service.matching import can_be_made, choose_prior, component_problems, planned_traits
from auditor.service.plans import PRESETS

SCORE_ONLY = (Access.SCORE, Access.LABEL)


def plan(attacks=("ppa",), priors=("vae",), **fields):
    return AuditPlan(
        name="p",
        attacks=tuple(a if isinstance(a, AttackSpec) else AttackSpec(name=a) for a in attacks),
        priors=tuple(p if isinstance(p, PriorSpec) else PriorSpec(name=p) for p in priors),
        **fields,
    )


def problems(plan, *, has_generator=False, has_public=True, access=None):
    return component_problems(plan, has_generator=has_generator, has_public=has_public, access=access)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("has_public", [True, False])
def test_presets_fit_together(preset, has_public):
    assert problems(PRESETS[preset], has_public=has_public) == []


def test_all_problems_come_at_once():
    found = problems(
        plan(
            (AttackSpec(name="ppa", params={"steps": 0, "stepz": 1}), "pqa"),
            (PriorSpec(name="vae", params={"width": 1}), "onnx"),
            evaluator=EvaluatorSpec(architecture="resnet-9000"),
            fisher=FisherSpec(trajectory=(0.0, 1.5)),
        )
    )
    text = "\n".join(found)
    for part in ("steps", "stepz", "unknown attack 'pqa'", "width", "data.generator", "resnet-9000", "trajectory"):
        assert part in text


def test_one_unknown_attack_hides_no_other_misfit():
    unknown, misfit = problems(plan(("pqa", "gmi")))
    assert "unknown attack 'pqa'" in unknown
    assert "'gmi' needs a prior" in misfit


def test_an_unknown_prior_is_told_all_names_there_are():
    """The team's own generator is a prior too, though no catalog builds it."""
    (problem,) = problems(plan(("ppa",), ("vaee",)))
    assert problem.endswith(f"Known: {', '.join(PRIORS.names)}, onnx.")
    assert "Did you mean 'onnx'?" in problems(plan(("ppa",), ("onx",)))[0]


@pytest.mark.parametrize("prior", ["dip", "pixels"])
@pytest.mark.parametrize("has_public", [True, False])
def test_a_search_among_samples_that_are_noise_is_refused(prior, has_public):
    """`ppa` on the deep image prior runs, finds nothing and takes the time of an attack that could have."""
    named = plan((AttackSpec(name="ppa", prior=prior),), ("vae", prior))
    (problem,) = problems(named, has_public=has_public)
    assert f"those of {prior} are noise" in problem
    assert "use one of: vae, vae-gan, dcgan" in problem
    assert "pixel" not in problem.split("one of:")[1]
    (problem,) = problems(plan(("mirror-b", "pixel-tv"), (prior,)))  # the second one asks for such a prior
    assert "attack 'mirror-b'" in problem
    assert problems(plan((AttackSpec(name="pixel-tv", prior=prior),), (prior,))) == []
    assert problems(plan((AttackSpec(name="ppa", prior="pixel"),), ("pixel",)), has_public=has_public) == []


def test_an_attack_whose_needs_no_listed_prior_meets():
    (problem,) = problems(plan(("gmi",)))
    assert "'gmi' needs a prior that offers critic" in problem
    assert "dcgan" in problem


def test_an_attack_that_names_a_prior_without_what_it_needs():
    (problem,) = problems(plan((AttackSpec(name="gmi", prior="vae"),), ("vae", "dcgan")))
    assert "vae does not" in problem


def test_of_a_supplied_generator_nothing_is_known_before_it_is_loaded():
    assert problems(plan(("gmi",), ("onnx",)), has_generator=True) == []


ASKING = [builder.name for builder in PRIORS if builder.access is not None]


@pytest.mark.parametrize("name", ASKING)
def test_a_prior_that_asks_for_more_than_the_target_offers(name):
    access = PRIORS.get(name).access
    weaker = tuple(level for level in Access if level.rank > access.rank and level is not Access.SPLIT)
    found = problems(plan(("ppa",), ("vae", name)), access=weaker)
    assert any(f"prior '{name}'" in problem and str(access) in problem for problem in found)
    assert not any(
        f"prior '{name}'" in problem for problem in problems(plan(("ppa",), ("vae", name)), access=(access,))
    )
    assert not can_be_made(name, weaker, has_public=True)


def test_without_public_images_only_what_knows_nothing_can_be_made():
    assert can_be_made("pixel", SCORE_ONLY, has_public=False)
    assert not can_be_made("vae", SCORE_ONLY, has_public=False)
    assert can_be_made("vae", SCORE_ONLY, has_public=True)


@pytest.mark.parametrize(
    ("priors", "expected"),
    [
        (("vae", "kedmi-gan", "dcgan"), "dcgan"),  # the one GMI comes with
        (("vae", "kedmi-gan", "vae-gan"), "kedmi-gan"),  # else the first with a critic
        (("vae",), None),
    ],
)
def test_the_default_prior_is_what_the_contract_says(priors, expected):
    made = plan(("gmi",), priors)
    assert choose_prior(made.attacks[0], ATTACKS.get("gmi"), planned_traits(made)) == expected
    said = AttackSpec.model_fields["prior"].description
    assert "the one the attack's method comes with" in said
    assert "first prior that has all the traits" in " ".join(said.split())


def test_noise_serves_only_those_who_ask_for_it():
    """A prior that is the picture itself must not slip under an attack that was meant to draw faces."""
    made = plan(("ppa", "mi-face", AttackSpec(name="ppa", label="x", prior="dip")), ("pixels", "dip", "vae"))
    for has_public, expected in ((True, ["vae", "pixels", None]), (False, ["pixel", "pixels", "pixel"])):
        traits = planned_traits(made, has_public=has_public)
        chosen = [choose_prior(spec, ATTACKS.get(spec.name), traits) for spec in made.attacks]
        assert chosen == expected
