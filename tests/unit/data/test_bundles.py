"""Bundles: the same content gives the same bytes, and damage is noticed."""

import numpy as np
import pytest

from auditor.data.bundles import load_bundle, save_bundle
from auditor.data.image_set import ImageSet
from auditor.errors import InvalidInput, StorageFailure


@pytest.fixture
def image_set():
    images = np.random.default_rng(0).integers(0, 256, (4, 9, 8, 3), dtype=np.uint8)
    return ImageSet("private", images, np.array([0, 1, 1, 0]), ("anna", "Zoë"))


def test_round_trip(tmp_path, image_set):
    save_bundle(image_set, tmp_path / "a.npz")
    loaded = load_bundle(tmp_path / "a.npz")
    assert (loaded.name, loaded.class_names, loaded.digest) == ("private", ("anna", "Zoë"), image_set.digest)
    save_bundle(ImageSet("public", image_set.images), tmp_path / "b.npz")
    assert load_bundle(tmp_path / "b.npz").labels is None
    assert len(list(tmp_path.iterdir())) == 2


def test_equal_sets_give_equal_bytes(tmp_path, image_set):
    save_bundle(image_set, tmp_path / "a.npz")
    other = ImageSet(
        "private", np.asfortranarray(image_set.images), image_set.labels.astype(np.int32), image_set.class_names
    )
    save_bundle(other, tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    save_bundle(image_set.select(np.array([1, 0, 2, 3])), tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() != (tmp_path / "b.npz").read_bytes()


def test_damage_and_strangers_are_refused(tmp_path, image_set):
    path = tmp_path / "a.npz"
    with pytest.raises(InvalidInput):
        load_bundle(path)
    save_bundle(image_set, path)
    data = path.read_bytes()
    path.write_bytes(data[:300])
    with pytest.raises(InvalidInput):
        load_bundle(path)
    np.savez(path, images=image_set.images)
    with pytest.raises(InvalidInput):
        load_bundle(path)
    np.savez(path, images=image_set.images, labels=np.zeros(2), about=np.array('{"name": "x", "class_names": []}'))
    with pytest.raises(InvalidInput, match="fit together"):
        load_bundle(path)


def test_nothing_is_left_when_writing_fails(tmp_path, image_set, monkeypatch):
    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("auditor.data.bundles.np.lib.format.write_array", full)
    with pytest.raises(StorageFailure, match="disk is full"):
        save_bundle(image_set, tmp_path / "a.npz")
    assert list(tmp_path.iterdir()) == []
