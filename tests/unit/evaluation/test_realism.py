"""Kernel inception distance in the judge's embedding."""

import pytest
import torch

from auditor.contracts.scores import Measured, NotMeasured
from auditor.evaluation.judge import supplied_judge
from auditor.evaluation.realism import _unbiased_mmd, kernel_distance
from auditor.tensors import RunContext
from auditor.testing import toy_images, toy_templates

CTX = RunContext(seed=3)
JUDGE = supplied_judge(lambda images: images.flatten(1) - 0.5, "flat")
PICTURES = toy_images(toy_templates(6), 100, noise=0.05).images
ORDER = torch.randperm(600, generator=torch.Generator().manual_seed(0))


def test_equal_distributions_are_at_zero_and_others_are_ordered_by_how_far_they_are():
    one, other = PICTURES[ORDER[:300]], PICTURES[ORDER[300:]]
    same = kernel_distance(one, other, JUDGE, CTX)
    assert isinstance(same, Measured)
    assert same.low - 0.01 <= 0 <= same.high + 0.01
    noise = torch.rand(300, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    mixed = torch.cat([one[:150], noise[:150]])
    distances = [kernel_distance(images, other, JUDGE, CTX) for images in (mixed, noise)]
    assert same.high < distances[0].low
    assert distances[0].high < distances[1].low


def test_few_images_give_no_number():
    score = kernel_distance(PICTURES[:199], PICTURES, JUDGE, CTX)
    assert isinstance(score, NotMeasured)
    assert "199" in score.reason


def test_the_estimate_is_unbiased_by_hand():
    x, y = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).double(), torch.tensor([[1.0, 0.0], [1.0, 0.0]]).double()
    # k(x1, x2) = 1, k(y1, y2) = 8, mean k(x, y) = (8 + 8 + 1 + 1) / 4
    assert _unbiased_mmd(x, y) == pytest.approx(1 + 8 - 2 * 4.5)


def test_same_seed_same_number():
    assert kernel_distance(PICTURES, PICTURES, JUDGE, CTX) == kernel_distance(PICTURES, PICTURES, JUDGE, CTX)
