import pytest
import torch

from auditor.errors import InvalidInput
from auditor.tensors import ImageBatch
from remediation.pretraining import public_task


def public(labels=None, n=40):
    images = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return ImageBatch(images, None if labels is None else torch.tensor(labels))


def task(batch, objective="auto"):
    return public_task(batch, objective, torch.Generator().manual_seed(0))


def test_labels_are_used_where_classes_have_two_images():
    found = task(public([5] * 10 + [9] * 10 + [3] * 10 + list(range(100, 110))))
    assert (found.objective, found.n_outputs) == ("labels", 3)
    assert len(found.train) + len(found.validation) == 30
    assert set(found.train.labels.tolist()) == {0, 1, 2}
    assert len(set(found.validation.labels.tolist())) == len(found.validation)


@pytest.mark.parametrize("labels", [None, list(range(40)), [1] * 40])
def test_otherwise_the_network_learns_to_tell_turns(labels):
    found = task(public(labels))
    assert (found.objective, found.n_outputs) == ("rotation", 4)
    assert torch.equal(found.train.images[0], torch.rot90(found.train.images[36], -1, dims=(1, 2)))
    assert found.chance == 0.25
    train = {image.numpy().tobytes() for image in found.train.images}
    assert not any(image.numpy().tobytes() in train for image in found.validation.images)


def test_images_that_are_not_square_are_turned_upside_down_only():
    batch = ImageBatch(torch.rand(20, 1, 8, 10))
    assert task(batch).n_outputs == 2


def test_wishes_that_cannot_be_met_are_refused():
    with pytest.raises(InvalidInput, match="two classes"):
        task(public([1] * 40), "labels")
    with pytest.raises(InvalidInput, match="too few"):
        task(public(n=10))
    assert task(public([1] * 20 + [2] * 20), "rotation").objective == "rotation"
