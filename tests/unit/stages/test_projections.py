"""Held-out images are projected into a prior once."""

import numpy as np
import torch

from auditor.data.image_set import ImageSet
from auditor.service.stages.means import projections
from auditor.service.workspace import Workspace
from auditor.tensors import RunContext
from auditor.testing import ToyPrior, ToyTarget, toy_templates

TEMPLATES = toy_templates(4, (1, 8, 8))


def images(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 8, 1), dtype=np.uint8)
    return ImageSet("heldout", pixels, np.arange(6) % 4)


def test_another_audit_with_the_same_prior_and_images_does_not_project_again(tmp_path):
    calls = []
    ctx = RunContext(on_tick=lambda *tick: calls.append(tick))
    target, prior = ToyTarget(TEMPLATES), ToyPrior(TEMPLATES)
    found = [projections(Workspace(tmp_path / name, tmp_path / "c"), prior, images(0), target, ctx) for name in "ab"]
    assert len(calls) == 1
    assert torch.equal(*found)
    assert torch.equal(found[0], prior.project(images(0).batch((1, 8, 8)).images, RunContext()))
    for other_prior, other_images in ((prior, images(1)), (ToyPrior(TEMPLATES[1:]), images(0))):
        projections(Workspace(tmp_path / "c", tmp_path / "c"), other_prior, other_images, target, ctx)
    assert len(calls) == 3
