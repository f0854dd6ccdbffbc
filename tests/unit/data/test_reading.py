"""Reading what a manifest names: right pixels, right classes, and every problem named at once."""

import io
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from auditor.contracts.manifest import DataSpec
from auditor.data import image_folder, image_npz
from auditor.data.reading import read_image_set
from auditor.errors import InvalidInput

RNG = np.random.default_rng(0)


def save(path: Path, pixels=None, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RNG.integers(0, 256, (12, 10, 3), dtype=np.uint8) if pixels is None else pixels
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path):
    for name in ("anna", "bert", "carl"):
        for index in range(3):
            save(tmp_path / "faces" / name / f"{index}.png")
    return tmp_path / "faces"


def read(folder: Path, *, labelled=True, **options):
    names = ("n_classes", "classes", "min_per_class", "size")
    passed = {name: options.pop(name) for name in names if name in options}
    return read_image_set(
        DataSpec(path=Path(folder.name), **options), folder.parent, name="private", labelled=labelled, **passed
    )


def problems(folder: Path, **options) -> str:
    with pytest.raises(InvalidInput) as caught:
        read(folder, **options)
    return "\n".join(caught.value.problems)


def test_folder_pixels_and_classes(folder):
    found = read(folder)
    assert found.images.shape == (9, 12, 10, 3)
    assert found.class_names == ("anna", "bert", "carl")
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert np.array_equal(found.images[4], np.asarray(Image.open(folder / "bert" / "1.png")))


def test_system_and_hidden_files_do_not_count(folder):
    for name in (".DS_Store", "anna/.hidden.png", "anna/Thumbs.db", "README.txt"):
        (folder / name).write_text("x")
    assert len(read(folder)) == 9


def test_sizes_are_brought_together_and_grey_stays_grey(tmp_path):
    for index in range(3):
        save(tmp_path / "g" / "a" / f"{index}.png", np.full((12, 10), 50 * index, np.uint8))
        save(tmp_path / "g" / "b" / f"{index}.png", np.full((24, 20), 50 * index, np.uint8))
    save(tmp_path / "g" / "a" / "more.png", np.full((12, 10), 7, np.uint8))
    assert read(tmp_path / "g").images.shape == (7, 12, 10, 1)
    resized = read(tmp_path / "g", size=(8, 9))
    assert resized.images.shape == (7, 8, 9, 1)
    assert resized.images[1].min() == resized.images[1].max() == 50
    save(tmp_path / "g" / "b" / "colour.png")
    assert read(tmp_path / "g").images.shape == (8, 12, 10, 3)


def test_bad_files_are_all_named(folder):
    (folder / "anna" / "0.png").write_bytes(b"not an image")
    good = (folder / "anna" / "1.png").read_bytes()
    (folder / "anna" / "1.png").write_bytes(good[: len(good) // 2])
    save(folder / "bert" / "tiny.png", np.zeros((4, 20, 3), np.uint8))
    save(folder / "bert" / "deep.tiff", np.zeros((12, 10), np.float32))
    (folder / "bert" / "notes.txt").write_text("x")
    exif = Image.Exif()
    exif[0x0112] = 6
    save(folder / "carl" / "turned.jpg", exif=exif)
    frames = [Image.fromarray(np.full((12, 10), value, np.uint8)) for value in (0, 255)]
    frames[0].save(folder / "carl" / "moving.gif", save_all=True, append_images=frames[1:])
    save(folder / "carl" / "inner" / "x.png")
    save(folder / "loose.png")
    (folder / "dora").mkdir()
    text = problems(folder)
    for expected in (
        "cannot be read as images (UnidentifiedImageError): anna/0.png",
        "damaged, cannot be decoded",
        "anna/1.png",
        "smaller than 8 pixels on a side: bert/tiny.png",
        "not 8-bit images (pixel type F",
        "bert/deep.tiff",
        "not images by their ending: bert/notes.txt",
        "EXIF",
        "carl/turned.jpg",
        "animated or of several pages: carl/moving.gif",
        "folders inside class folders: carl/inner",
        "images outside any class folder: loose.png",
        "class folders without images: dora",
    ):
        assert expected in text
    assert "bert/0.png" not in text


def test_long_lists_are_cut(folder):
    for index in range(30):
        (folder / "anna" / f"bad{index:02}.png").write_bytes(b"x")
    text = problems(folder)
    assert "bad19.png and 10 more" in text
    assert "bad20.png" not in text


def test_links_out_of_the_folder_are_refused(folder, tmp_path):
    secret = save(tmp_path / "outside" / "secret.png")
    (folder / "anna" / "link.png").symlink_to(secret)
    (folder / "mallory").symlink_to(secret.parent)
    (folder / "bert" / "gone.png").symlink_to(folder / "bert" / "missing.png")
    text = problems(folder)
    assert "links that lead out of the folder: mallory, anna/link.png" in text
    assert "broken links or special files: bert/gone.png" in text


def test_a_link_within_the_folder_is_fine(folder):
    (folder / "anna" / "again.png").symlink_to(folder / "anna" / "0.png")
    assert len(read(folder)) == 10


def test_huge_images_are_refused_before_they_are_decoded(folder, monkeypatch):
    monkeypatch.setattr(image_folder, "MAX_IMAGE_PIXELS", 12 * 10)
    save(folder / "anna" / "huge.png", np.zeros((13, 10, 3), np.uint8))
    monkeypatch.setattr(Image.Image, "load", None)
    assert "megapixels: anna/huge.png" in problems(folder)


def test_a_decompression_bomb_is_refused(folder):
    header = b"\x89PNG\r\n\x1a\n"
    chunk = b"IHDR" + (60_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    data = header + (13).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big") + b"\0\0\0\0IDAT\0\0\0\0"
    (folder / "anna" / "bomb.png").write_bytes(data)
    assert "megapixels: anna/bomb.png" in problems(folder)


def test_the_total_is_budgeted(folder, monkeypatch):
    monkeypatch.setattr(image_folder, "MAX_TOTAL_BYTES", 9 * 12 * 10 * 3 - 1)
    assert "set `max_per_class`" in problems(folder)
    assert len(read(folder, max_per_class=2)) == 6


def test_max_per_class_goes_by_content_not_by_name(tmp_path):
    pixels = RNG.integers(0, 256, (2, 5, 12, 10, 3), dtype=np.uint8)
    for first, order in (("a", range(5)), ("b", reversed(range(5)))):
        for place, index in enumerate(order):
            for label in (0, 1):
                save(tmp_path / first / f"c{label}" / f"{place}.png", pixels[label, index])
    chosen = [{image.tobytes() for image in read(tmp_path / x, max_per_class=2).images} for x in ("a", "b")]
    assert chosen[0] == chosen[1]
    assert len(chosen[0]) == 4


def test_unlabelled_images_at_any_depth(tmp_path):
    save(tmp_path / "pub" / "a.png")
    assert read(tmp_path / "pub", labelled=False).labels is None
    save(tmp_path / "pub" / "x" / "y" / "b.png")
    flat = read(tmp_path / "pub", labelled=False, labels_key=None)
    assert (len(flat), flat.labels) == (2, None)
    assert "one folder per class" in problems(tmp_path / "pub" / "x" / "y")


def test_public_classes_are_used_when_there_are_any(folder):
    (folder / "carl" / "0.png").unlink()
    (folder / "carl" / "1.png").unlink()
    found = read(folder, labelled=False)
    assert found.n_classes == 3
    assert "classes of fewer than 2 images: carl" in problems(folder)
    assert len(read(folder, min_per_class=1)) == 7


def test_class_map_is_used(folder):
    found = read(folder, class_map={"anna": 2, "bert": 0, "carl": 1}, n_classes=3)
    assert found.labels.tolist() == [2, 2, 2, 0, 0, 0, 1, 1, 1]
    assert found.class_names == ("bert", "carl", "anna")


def test_class_map_problems_are_all_named(folder):
    text = problems(folder, class_map={"anna": 1, "bert": 1, "dora": 4, "emil": -1}, n_classes=4)
    assert "classes of `class_map` that have no images: dora, emil" in text
    assert "classes that `class_map` leaves out: carl" in text
    assert "gives the same index 1: anna, bert" in text
    assert "no class has index: 0, 2, 3" in text
    assert "outside the model's 0..3: dora -> 4, emil -> -1" in text


def test_too_few_folders_for_the_model_is_not_guessed(folder):
    assert "3 classes for a model of 5" in problems(folder, n_classes=5)


def test_heldout_takes_the_private_sets_indices(folder):
    for index in range(3):
        (folder / "bert" / f"{index}.png").unlink()
    (folder / "bert").rmdir()
    found = read(folder, classes=("anna", "bert", "carl"), n_classes=3)
    assert sorted(set(found.labels.tolist())) == [0, 2]
    assert "that the private images do not have: carl" in problems(folder, classes=("anna", "bert"))


def test_one_class_only(tmp_path):
    for index in range(3):
        save(tmp_path / "one" / "anna" / f"{index}.png")
    assert "one class only ('anna')" in problems(tmp_path / "one")


def test_missing_and_wrong_paths(tmp_path):
    assert "does not exist" in problems(tmp_path / "nothing")
    (tmp_path / "list.csv").write_text("x")
    assert "neither a folder of images nor an .npz" in problems(tmp_path / "list.csv")
    (tmp_path / "empty").mkdir()
    assert "no images found" in problems(tmp_path / "empty")
    assert "no images found" in problems(tmp_path / "empty", labelled=False)
    assert "`labels_key` is null" in problems(tmp_path / "empty", labels_key=None)


IMAGES = RNG.integers(0, 256, (6, 9, 8, 3), dtype=np.uint8)
LABELS = np.array([0, 0, 2, 2, 5, 5])


def npz(tmp_path: Path, **arrays) -> Path:
    path = tmp_path / "set.npz"
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64])
def test_npz_labels_are_indices(tmp_path, dtype):
    found = read(npz(tmp_path, images=IMAGES, labels=LABELS.astype(dtype)), n_classes=6)
    assert np.array_equal(found.images, IMAGES)
    assert found.labels.tolist() == LABELS.tolist()
    assert found.labels.dtype == np.int64
    assert found.class_names == ("0", "1", "2", "3", "4", "5")


def test_npz_text_labels_names_and_keys(tmp_path):
    texts = np.array(["b", "b", "a", "a", "c", "c"])
    assert read(npz(tmp_path, images=IMAGES, labels=texts)).labels.tolist() == [1, 1, 0, 0, 2, 2]
    mapped = read(
        npz(tmp_path, x=IMAGES[..., 0], y=LABELS), images_key="x", labels_key="y", class_map={"0": 1, "2": 0, "5": 2}
    )
    assert mapped.images.shape == (6, 9, 8, 1)
    assert mapped.labels.tolist() == [1, 1, 0, 0, 2, 2]
    named = npz(tmp_path, images=IMAGES, labels=LABELS, class_names=np.array(list("uvwxyz")))
    assert read(named).class_names == tuple("uvwxyz")


def test_npz_class_index_outside_the_model(tmp_path):
    path = npz(tmp_path, images=IMAGES, labels=LABELS)
    assert "class indices outside the model's 0..4: 5" in problems(path, n_classes=5)
    assert "class indices below 0: -1" in problems(npz(tmp_path, images=IMAGES, labels=LABELS - 1))


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"images": IMAGES / 255, "labels": LABELS}, "holds float64 numbers"),
        ({"images": IMAGES.astype(np.int32), "labels": LABELS}, "holds int32 numbers"),
        ({"images": IMAGES // 128, "labels": LABELS}, "no pixel above 1"),
        ({"images": IMAGES.transpose(0, 3, 1, 2), "labels": LABELS}, "channels first"),
        ({"images": IMAGES[0], "labels": LABELS}, "images but 6 labels"),
        ({"images": IMAGES[:, :4], "labels": LABELS}, "smaller than 8 pixels"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, "no images found"),
        ({"images": IMAGES[:, 0, 0], "labels": LABELS}, "must be N x H x W"),
        ({"images": IMAGES, "labels": LABELS[:5]}, "6 images but 5 labels"),
        ({"images": IMAGES, "labels": LABELS * 1.0}, "holds float64; give integers"),
        ({"images": IMAGES, "labels": LABELS[:, None]}, "one label per image"),
        ({"images": IMAGES, "labels": LABELS.astype(np.uint64) + 2**62}, "cannot be class indices"),
        ({"images": IMAGES, "label": LABELS}, "no array 'labels'; did you mean 'label'?"),
        ({"pictures": IMAGES, "labels": LABELS}, "no array 'images'"),
        ({"images": IMAGES, "labels": LABELS * 0}, "one class only"),
    ],
)
def test_npz_problems(tmp_path, arrays, said):
    assert said in problems(npz(tmp_path, **arrays))


def test_npz_problems_come_together(tmp_path):
    text = problems(npz(tmp_path, images=IMAGES / 255, labels=LABELS[:5] - 1))
    for said in ("float64", "6 images but 5 labels", "class indices below 0"):
        assert said in text


class _Bomb:
    """Would write a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_pickled_objects_are_never_loaded(tmp_path):
    mark = tmp_path / "ran"
    path = npz(tmp_path, images=np.array([_Bomb(mark)], dtype=object), labels=np.array([_Bomb(mark)], dtype=object))
    assert "pickled Python objects" in problems(path)
    assert not mark.exists()


def test_a_header_cannot_claim_more_than_is_there(tmp_path):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": (10**9, 1, 1)})
    path = tmp_path / "set.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", buffer.getvalue() + b"x")
    assert "damaged" in problems(path)


def test_a_large_npz_is_refused_by_its_header(tmp_path, monkeypatch):
    monkeypatch.setattr(image_npz, "MAX_TOTAL_BYTES", 1000)
    assert "more than" in problems(npz(tmp_path, images=IMAGES, labels=LABELS))


def test_damaged_npz(tmp_path):
    path = npz(tmp_path, images=IMAGES, labels=LABELS)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert "not a readable npz" in problems(path)
    path.write_bytes(data.replace(IMAGES[3].tobytes()[:20], b"\0" * 20))
    assert "not a readable npz" in problems(path)


def test_npz_max_per_class_and_public_labels(tmp_path):
    path = npz(tmp_path, images=IMAGES, labels=LABELS)
    assert read(path, max_per_class=1, min_per_class=1).labels.tolist() == [0, 2, 5]
    assert "classes of fewer than 2 images" in problems(path, max_per_class=1)
    assert read(path, labelled=False).n_classes == 3
    assert read(path, labelled=False, labels_key=None).labels is None
    assert read(npz(tmp_path, images=IMAGES), labelled=False).labels is None
