"""Overlap: copies are found, unrelated images are not, however dull they are."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from auditor.data.image_set import ImageSet
from auditor.data.overlap import check_overlap, find_overlap, require_disjoint
from auditor.errors import InvalidInput


def pictures(n, seed, *, size=32, detail=8, low=0.0, high=1.0, name="set"):
    noise = torch.rand(n, 3, detail, detail, generator=torch.Generator().manual_seed(seed))
    smooth = interpolate(noise, (size, size), mode="bilinear", align_corners=False)
    images = ((low + (high - low) * smooth) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return ImageSet(name, np.ascontiguousarray(images))


PRIVATE = pictures(40, 0, name="private")
PUBLIC = pictures(60, 1, name="public")


def with_rows(image_set, images):
    return ImageSet(image_set.name, np.concatenate([image_set.images, images]))


def test_unrelated_images_do_not_overlap():
    check = check_overlap(PRIVATE, PUBLIC)
    assert (check.checked, check.exact_duplicates, check.near_duplicates) == (True, 0, 0)
    require_disjoint(PRIVATE, PUBLIC)


def test_exact_copies_are_found_and_refused_by_name():
    public = with_rows(PUBLIC, PRIVATE.images[[7, 3, 7]])
    labelled = ImageSet("private", PRIVATE.images, np.zeros(40, np.int64), ("anna",))
    assert find_overlap(PRIVATE, public).exact.tolist() == [[3, 61], [7, 60], [7, 62]]
    check = check_overlap(PRIVATE, public)
    assert (check.exact_duplicates, check.near_duplicates) == (2, 0)
    with pytest.raises(InvalidInput, match=r"2 of 40 private images .*private\[3\] \('anna'\) = public\[61\]"):
        require_disjoint(labelled, public)


def test_a_grey_copy_in_colour_is_exact():
    grey = PRIVATE.images[:, :, :, :1]
    found = find_overlap(ImageSet("private", grey), ImageSet("public", np.repeat(grey, 3, axis=3)))
    assert found.exact.tolist() == [[i, i] for i in range(40)]


def jpeg(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=60)
    return np.asarray(Image.open(buffer))


@pytest.mark.parametrize(
    "change",
    [
        jpeg,
        lambda image: (image * 0.8 + 20).astype(np.uint8),
        lambda image: image[:, ::-1],
        lambda image: np.asarray(Image.fromarray(image).resize((24, 24), Image.Resampling.LANCZOS).resize((32, 32))),
        lambda image: np.repeat(image.mean(axis=2, keepdims=True).round().astype(np.uint8), 3, axis=2),
    ],
    ids=["jpeg", "brightness", "mirrored", "rescaled", "grey"],
)
def test_near_copies_are_counted_but_not_refused(change):
    public = with_rows(PUBLIC, np.stack([change(image) for image in PRIVATE.images[:10]]))
    found = find_overlap(PRIVATE, public)
    assert found.near.tolist() == [[i, 60 + i] for i in range(10)]
    check = check_overlap(PRIVATE, public)
    assert (check.exact_duplicates, check.near_duplicates) == (0, 10)
    assert "0/60" in check.note
    require_disjoint(PRIVATE, public)


def test_a_copy_of_another_size_is_near():
    small = torch.from_numpy(PRIVATE.images[:5]).permute(0, 3, 1, 2).float()
    small = interpolate(small, (20, 20), mode="bilinear", antialias=True, align_corners=False)
    public = ImageSet("public", small.round().to(torch.uint8).permute(0, 2, 3, 1).numpy())
    assert find_overlap(PRIVATE, public).near.tolist() == [[i, i] for i in range(5)]


def test_low_contrast_images_do_not_all_collide():
    dull = [pictures(40, seed, low=0.50, high=0.53) for seed in (2, 3)]
    assert check_overlap(*dull).near_duplicates == 0
    flat = [
        ImageSet("flat", np.full((9, 16, 16, 1), 10, np.uint8) + np.arange(9)[:, None, None, None].astype(np.uint8) * 9)
    ]
    other = ImageSet("other", flat[0].images + 1)
    assert check_overlap(flat[0], other).near_duplicates == 0
    assert check_overlap(flat[0], flat[0]).exact_duplicates == 9


def test_the_search_is_tested_on_copies_planted_among_the_public_images():
    check = check_overlap(PRIVATE, PUBLIC)
    assert (check.planted, check.planted_found) == (40, 40)
    flat = ImageSet(
        "flat", np.full((30, 16, 16, 1), 90, np.uint8) + np.arange(30)[:, None, None, None].astype(np.uint8)
    )
    assert check_overlap(flat, PUBLIC).planted_found == 0
    assert check_overlap(pictures(200, 5), PUBLIC).planted == 64


def test_many_images_are_compared_in_chunks(monkeypatch):
    monkeypatch.setattr("auditor.data.overlap._CHUNK", 7)
    public = with_rows(PUBLIC, np.stack([jpeg(image) for image in PRIVATE.images]))
    assert find_overlap(PRIVATE, public).near.tolist() == [[i, 60 + i] for i in range(40)]
