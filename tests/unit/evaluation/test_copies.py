import pytest
import torch
from torch.nn.functional import interpolate

from auditor.evaluation.copies import search_copies
from auditor.evaluation.judge import supplied_judge
from auditor.tensors import ImageBatch, RunContext

CTX = RunContext(batch_size=64)


def pictures(n, seed, size=32):
    """Smooth random pictures: no two alike."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 5, 5, generator=generator)
    return interpolate(coarse, (size, size), mode="bicubic", align_corners=False).clamp(0, 1)


def embed(images):
    """Colours of a coarse picture without their mean: enough to tell smooth pictures apart."""
    flat = interpolate(images, (8, 8), mode="area").flatten(1)
    return flat - flat.mean(1, keepdim=True)


JUDGE = supplied_judge(embed, "digest")
PRIVATE = ImageBatch(pictures(80, 1), torch.arange(80) % 20)
STRANGERS = pictures(300, 2)


def cropped(images, pixels=2):
    inside = images[:, :, pixels:, : images.shape[3] - pixels]
    return interpolate(inside, images.shape[2:], mode="bilinear", align_corners=False)


def test_strangers_are_no_copies_and_planted_ones_are_found():
    found = search_copies(JUDGE, PRIVATE, ImageBatch(STRANGERS), CTX)
    assert found.pairs == ()
    assert found.planted == 64
    assert found.planted_found >= 60


@pytest.mark.parametrize(
    "alter", [cropped, lambda x: cropped(x).flip(3), lambda x: 0.7 * cropped(x, 1), lambda x: x], ids=range(4)
)
def test_copies_are_found_however_they_were_altered(alter):
    rows = torch.tensor([3, 40, 77])
    public = torch.cat([STRANGERS[:100], alter(PRIVATE.images[rows]), STRANGERS[100:]])
    found = search_copies(JUDGE, PRIVATE, ImageBatch(public), CTX)
    assert found.pairs == ((3, 100), (40, 101), (77, 102))


def test_other_pictures_of_a_private_class_set_no_limit():
    """Were they taken for look-alikes, the limit would rise to what copies reach."""
    twins = ImageBatch(torch.cat([PRIVATE.images, cropped(PRIVATE.images, 1)]), PRIVATE.labels.repeat(2))
    assert search_copies(JUDGE, twins, ImageBatch(STRANGERS), CTX).limit < 0.95


def test_one_picture_filed_under_two_classes_does_not_end_the_search():
    twice = ImageBatch(
        torch.cat([PRIVATE.images, PRIVATE.images[:1], cropped(PRIVATE.images[1:2])]),
        torch.cat([PRIVATE.labels, PRIVATE.labels[5:6], PRIVATE.labels[6:7]]),
    )
    public = ImageBatch(torch.cat([cropped(PRIVATE.images), STRANGERS]))
    found = search_copies(JUDGE, twice, public, CTX)
    assert len(found.pairs) >= 78
    assert found.planted_found >= 60


def test_a_judge_that_tells_nothing_apart_finds_no_planted_copy_and_says_so():
    blind = supplied_judge(lambda images: torch.ones(len(images), 4), "digest")
    found = search_copies(blind, PRIVATE, ImageBatch(STRANGERS), CTX)
    assert found.planted_found < found.planted / 2


def test_one_class_has_no_look_alikes_to_compare_with():
    one = ImageBatch(PRIVATE.images, torch.zeros(80, dtype=torch.long))
    assert search_copies(JUDGE, one, ImageBatch(STRANGERS), CTX) is None


def test_flat_pictures_are_copies_of_nothing():
    flat = ImageBatch(torch.full((8, 3, 32, 32), 0.5), torch.arange(8) % 2)
    assert search_copies(JUDGE, flat, ImageBatch(torch.full((8, 3, 32, 32), 0.5)), CTX).pairs == ()


def test_batches_do_not_change_what_is_found():
    public = ImageBatch(torch.cat([cropped(PRIVATE.images[:5]), STRANGERS]))
    assert search_copies(JUDGE, PRIVATE, public, CTX) == search_copies(JUDGE, PRIVATE, public, RunContext(batch_size=7))
