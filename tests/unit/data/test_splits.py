"""Splits: by content, stratified, no image on both sides."""

import numpy as np
import pytest

from auditor.data.image_set import ImageSet
from auditor.data.splits import stratified_split
from auditor.errors import InvalidInput


def make(counts, seed=0):
    labels = np.repeat(np.arange(len(counts)), counts)
    images = np.random.default_rng(seed).integers(0, 256, (len(labels), 8, 8, 1), dtype=np.uint8)
    return ImageSet("private", images, labels, tuple("abcdefgh"[: len(counts)]))


def contents(image_set):
    return {image.tobytes() for image in image_set.images}


def test_every_class_is_on_both_sides_in_about_the_right_share():
    whole = make([2, 3, 10, 50])
    fit, heldout = stratified_split(whole, 0.2, seed=0)
    assert np.bincount(heldout.labels).tolist() == [1, 1, 2, 10]
    assert contents(fit) | contents(heldout) == contents(whole)
    assert not contents(fit) & contents(heldout)
    assert (fit.name, heldout.name) == ("private-fit", "private-heldout")


def test_the_choice_goes_by_content_and_seed():
    whole = make([20, 20])
    shuffled = whole.select(np.random.default_rng(3).permutation(40))
    first = contents(stratified_split(whole, 0.25, seed=1)[1])
    assert contents(stratified_split(shuffled, 0.25, seed=1)[1]) == first
    assert contents(stratified_split(whole, 0.25, seed=2)[1]) != first


def test_identical_images_stay_together():
    whole = make([10, 10])
    doubled = whole.select(np.repeat(np.arange(20), 3))
    for seed in range(5):
        fit, heldout = stratified_split(doubled, 0.3, seed=seed)
        assert not contents(fit) & contents(heldout)


def test_classes_that_cannot_be_split_are_all_named():
    whole = make([1, 4, 4, 1])
    same = whole.images.copy()
    same[whole.labels == 2] = 9
    with pytest.raises(InvalidInput, match="a, c, d"):
        stratified_split(ImageSet("private", same, whole.labels, whole.class_names), 0.2, seed=0)


def test_a_large_share_leaves_something_to_fit():
    fit, heldout = stratified_split(make([2, 5]), 0.99, seed=0)
    assert np.bincount(fit.labels).tolist() == [1, 1]
    assert len(heldout) == 5
