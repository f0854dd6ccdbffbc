"""Nothing that somebody wrote in a manifest, plan or policy is read as what it is not."""

import pytest
from pydantic import ValidationError

from auditor.attacks.catalog import ATTACKS
from auditor.contracts.base import as_written
from auditor.contracts.manifest import Manifest, ModelSpec, PlanSection
from auditor.contracts.plan import AttackSpec, EvaluatorSpec, FisherSpec
from auditor.errors import InvalidInput
from auditor.service.plans import resolve_plan


@pytest.mark.parametrize(
    ("contract", "field", "value"),
    [
        (EvaluatorSpec, "epochs", True),
        (PlanSection, "seed", "0"),
        (ModelSpec, "weights_published", "no"),
        (ModelSpec, "weights_published", 1),
        (FisherSpec, "trajectory", [0.5, "1"]),
    ],
)
def test_a_value_of_another_kind_is_refused(contract, field, value):
    with pytest.raises(ValidationError) as refused:
        as_written(contract, {"name": "m", field: value} if contract is ModelSpec else {field: value})
    assert refused.value.errors()[0]["loc"][0] == field


@pytest.mark.parametrize("params", [{"steps": True}, {"lr": "0.1"}, {"steps": 10.5}, {"poincare": "yes"}])
def test_a_parameter_of_another_kind_is_refused(params):
    with pytest.raises(InvalidInput):
        ATTACKS.configure("ppa", params)


def test_an_override_of_another_kind_is_refused():
    with pytest.raises(InvalidInput, match=r"plan\.batch_size"):
        resolve_plan(PlanSection(overrides={"batch_size": "64"}))


def test_what_yaml_has_no_word_for_is_understood():
    """Sequences are tuples, names are members of an enumeration, and whole numbers serve where any number does."""
    manifest = as_written(Manifest, {"model": {"name": "m"}, "plan": {"priors": [{"name": "vae"}], "seed": None}})
    assert manifest.plan.priors is not None
    assert manifest.plan.seed is None
    assert ATTACKS.configure("ppa", {"lr": 1}).lr == 1.0


@pytest.mark.parametrize("label", ["", "../../x", "two words", "a\n", "x" * 65])
def test_a_label_is_a_plain_name(label):
    with pytest.raises(ValidationError):
        AttackSpec(name="ppa", label=label)
