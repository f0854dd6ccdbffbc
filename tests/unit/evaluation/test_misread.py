"""A class map that is wrong in places."""

import pytest
import torch

from auditor.evaluation.misread import misread_classes
from auditor.tensors import ImageBatch, RunContext

N_CLASSES, PER_CLASS = 10, 12


def answers(predicted):
    """A classifier of images whose first pixel is their number."""
    return lambda images: torch.nn.functional.one_hot(predicted[(images[:, 0, 0, 0] * 1000).round().long()], N_CLASSES)


@pytest.fixture
def heldout():
    labels = torch.arange(N_CLASSES).repeat_interleave(PER_CLASS)
    images = torch.zeros(len(labels), 1, 8, 8)
    images[:, 0, 0, 0] = torch.arange(len(labels)) / 1000
    return ImageBatch(images, labels)


def test_two_classes_that_were_swapped_are_found(heldout):
    swapped = heldout.labels.clone()
    swapped[heldout.labels == 3], swapped[heldout.labels == 7] = 7, 3
    evaluator = answers(heldout.labels)
    assert misread_classes(answers(swapped), evaluator, heldout, RunContext()) == {3, 7}
    assert misread_classes(answers(heldout.labels), evaluator, heldout, RunContext()) == frozenset()


def test_a_class_that_nobody_recognises_is_hard_and_not_misread(heldout):
    hard = heldout.labels.clone()
    hard[heldout.labels == 3] = 7
    assert misread_classes(answers(hard), answers(hard), heldout, RunContext()) == frozenset()


def test_a_weak_model_that_misses_a_few_images_by_chance(heldout):
    weak = torch.where(torch.arange(len(heldout.labels)) % 2 == 0, heldout.labels, (heldout.labels + 1) % N_CLASSES)
    weak[heldout.labels == 3] = 7
    few = ImageBatch(heldout.images[heldout.labels != 3], heldout.labels[heldout.labels != 3])
    few = ImageBatch(torch.cat([few.images, heldout.images[36:40]]), torch.cat([few.labels, heldout.labels[36:40]]))
    assert misread_classes(answers(weak), answers(heldout.labels), few, RunContext()) == frozenset()
