"""What evaluator and judge make of private images and of a prior is computed once, and found again by later audits."""

import numpy as np
import pytest
import torch

from auditor.contracts.manifest import DataSection, Manifest, ModelSpec
from auditor.contracts.plan import AttackSpec, AuditPlan, EvaluatorSpec, JudgeTraining, PriorSpec
from auditor.service.stages import prior_measures, witnesses
from auditor.service.stages.means import ReadyPrior
from auditor.service.workspace import Workspace
from auditor.tensors import RunContext
from auditor.testing import ToyPrior, ToyTarget, toy_templates
from auditor.testing.builders import toy_image_set

SHAPE = (1, 16, 16)
TEMPLATES = toy_templates(4, SHAPE)
TARGET, PRIOR, CTX = ToyTarget(TEMPLATES), ToyPrior(TEMPLATES), RunContext()
FIT, HELDOUT = toy_image_set(TEMPLATES, 10, seed=1), toy_image_set(TEMPLATES, 4, seed=2)
PUBLIC = toy_image_set(toy_templates(30, SHAPE, seed=7), 7, seed=3)
PLAN = AuditPlan(
    name="t",
    attacks=(AttackSpec(name="ppa"),),
    priors=(PriorSpec(name="vae"),),
    evaluator=EvaluatorSpec(epochs=2),
    judge=JudgeTraining(epochs=1, embedding_dim=16),
    n_control_samples=256,
    n_bootstrap=200,
)
MANIFEST = Manifest(version=1, model=ModelSpec(name="m"), data=DataSection())


def measured(workspace):
    """What `prepare` measures of the witnesses and of one prior."""
    seen = witnesses.train_witnesses(workspace, MANIFEST, PLAN, TARGET, FIT, HELDOUT, PUBLIC, CTX)
    ready = {"toy": ReadyPrior(PRIOR, "trained", {}, {}, False, PUBLIC.digest)}
    cards, arrays = prior_measures.measure_priors(workspace, ready, seen, FIT, HELDOUT, PUBLIC, TARGET, PLAN, CTX)
    return seen, cards, arrays


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    folder = tmp_path_factory.mktemp("measures")
    return folder, measured(Workspace(folder / "one", folder / "cache"))


def test_a_second_audit_measures_nothing_again_and_finds_the_same(first, monkeypatch):
    folder, (seen, cards, arrays) = first
    for module, name in (
        (witnesses, "build_reference"), (prior_measures, "measure_prior"), (prior_measures, "kernel_distance")
    ):  # fmt: skip
        monkeypatch.setattr(module, name, None)
    again, other_cards, other_arrays = measured(Workspace(folder / "two", folder / "cache"))
    assert other_cards == cards
    assert cards[0].kid.metric == "kid"
    assert arrays.keys() == other_arrays.keys()
    assert all(np.array_equal(arrays[name], other_arrays[name], equal_nan=True) for name in arrays)
    for part in ("private_features", "private_labels"):
        assert torch.equal(getattr(seen.reference, part), getattr(again.reference, part))
    assert torch.equal(seen.reference.judge.centroids, again.reference.judge.centroids)
    assert torch.equal(seen.reference.judge.present, again.reference.judge.present)


def test_what_was_kept_is_what_a_fresh_computation_gives(first, tmp_path):
    _, (_, cards, arrays) = first
    _, fresh_cards, fresh = measured(Workspace(tmp_path / "one", tmp_path / "cache"))
    assert fresh_cards == cards
    assert all(np.array_equal(arrays[name], fresh[name], equal_nan=True) for name in arrays)


def test_other_private_images_are_measured_anew(first, monkeypatch):
    folder, _ = first
    other = toy_image_set(TEMPLATES, 4, seed=9)
    monkeypatch.setattr(prior_measures, "measure_prior", None)
    workspace = Workspace(folder / "three", folder / "cache")
    seen = witnesses.train_witnesses(workspace, MANIFEST, PLAN, TARGET, FIT, other, PUBLIC, CTX)
    ready = {"toy": ReadyPrior(PRIOR, "trained", {}, {}, False, PUBLIC.digest)}
    with pytest.raises(TypeError, match="NoneType"):
        prior_measures.measure_priors(workspace, ready, seen, FIT, other, PUBLIC, TARGET, PLAN, CTX)
