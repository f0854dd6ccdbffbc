"""An image folder: listing, checking and decoding, without following a link out of it."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from auditor.contracts.manifest import DataSpec
from auditor.data.class_map import ClassRules, resolve_labels
from auditor.data.image_set import ImageSet
from auditor.data.limits import MAX_FILES, MAX_IMAGE_PIXELS, MAX_TOTAL_BYTES, MIN_SIDE, choose_by_content
from auditor.data.problems import Problems

_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_SYSTEM_FILES = {"thumbs.db", "desktop.ini"}
_GREY_MODES = {"1", "L", "LA"}
_EIGHT_BIT_MODES = _GREY_MODES | {"P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}
_ORIENTATION_TAG = 0x0112
_TOO_LARGE = f"larger than {MAX_IMAGE_PIXELS // 1_000_000} megapixels"


@dataclass(frozen=True)
class _Found:
    """Image files of a folder, sorted by path, and the class folder of each (None: no labels)."""

    files: list[Path]
    classes: list[str] | None


@dataclass(frozen=True)
class _Header:
    """What a file says before it is decoded."""

    height: int
    width: int
    grey: bool


def read_folder(
    root: Path,
    spec: DataSpec,
    problems: Problems,
    rules: ClassRules,
    *,
    name: str,
    required: bool,
    size: tuple[int, int] | None,
) -> ImageSet | None:
    """The images under `root`, RGB unless all are grey, brought to one size; None when `problems` received any.

    Files with an EXIF rotation, more than one frame or more than 8 bits are refused: the auditor could not know what
    pixels the model was trained on. Transparency is dropped.

    Args:
        root: a folder of class folders, or (labels not required) of images at any depth.
        spec: `labels_key` None means that class folders are not classes; `max_per_class`.
        problems: receives what is wrong.
        rules: what the class names must agree with.
        name: of the set.
        required: whether labels are needed.
        size: (H, W); None: the commonest size of the files (the larger one of a tie).
    """
    found = _list_images(root, problems, use_classes=spec.labels_key is not None, required=required)
    table = None
    if found.classes is not None and found.files:
        table = resolve_labels(found.classes, rules, problems)
    if not found.files:
        problems.add("no images found")
    if spec.max_per_class is not None and found.classes is None:
        problems.add("`max_per_class` needs class folders")
    if spec.max_per_class is not None and found.classes is not None and not problems:
        digests = [hashlib.sha256(path.read_bytes()).digest() for path in found.files]
        keep = choose_by_content(found.classes, digests, spec.max_per_class)
    else:
        keep = np.arange(len(found.files))
    headers = _read_headers(root, [found.files[index] for index in keep], problems)
    images = _decode(root, headers, size, problems)
    if problems or images is None:
        return None
    return ImageSet(name, images) if table is None else ImageSet(name, images, table.labels[keep], table.names)


def _list_images(root: Path, problems: Problems, *, use_classes: bool, required: bool) -> _Found:
    walk = _Walk(root, problems)
    folders, loose, _ = walk.entries(root)
    if not use_classes or (not required and not folders):
        files = sorted(walk.everything(root))
        walk.report()
        return _Found(files, None)
    problems.add_names("images outside any class folder", [path.name for path in loose])
    files, classes, empty = [], [], []
    for folder in folders:
        inner, images, others = walk.entries(folder)
        walk.nested += [_shown(root, path) for path in inner]
        walk.strange += [_shown(root, path) for path in others]
        files += images
        classes += [folder.name] * len(images)
        if not images:
            empty.append(folder.name)
    problems.add_names("class folders without images", empty)
    if not folders and loose:
        problems.add("one folder per class is needed; for images without classes set `labels_key: null`")
    walk.report()
    return _Found(files, classes)


class _Walk:
    """Lists folders, collecting what may not be followed or read."""

    def __init__(self, root: Path, problems: Problems) -> None:
        self._root, self._resolved, self._problems = root, root.resolve(), problems
        self._n_files = 0
        self._escaping: list[str] = []
        self._unreadable: list[str] = []
        self._special: list[str] = []
        self.nested: list[str] = []
        self.strange: list[str] = []

    def entries(self, folder: Path) -> tuple[list[Path], list[Path], list[Path]]:
        """Folders, image files and other files directly in `folder`, sorted; hidden and system files do not count."""
        folders: list[Path] = []
        images: list[Path] = []
        others: list[Path] = []
        try:
            listed = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            self._unreadable.append(_shown(self._root, folder))
            return [], [], []
        for entry in listed:
            path = folder / entry.name
            if entry.name.startswith(".") or entry.name.lower() in _SYSTEM_FILES:
                continue
            if entry.is_symlink() and not path.resolve().is_relative_to(self._resolved):
                self._escaping.append(_shown(self._root, path))
            elif entry.is_dir():
                folders.append(path)
            elif not entry.is_file():
                self._special.append(_shown(self._root, path))
            else:
                self._n_files += 1
                (images if path.suffix.lower() in _ENDINGS else others).append(path)
        return folders, images, others

    def everything(self, folder: Path, seen: frozenset[Path] = frozenset()) -> Iterator[Path]:
        """Every image file at any depth; a folder that is linked into itself is listed once."""
        resolved = folder.resolve()
        if resolved in seen or self._n_files > MAX_FILES:
            return
        folders, images, _ = self.entries(folder)
        yield from images
        for inner in folders:
            yield from self.everything(inner, seen | {resolved})

    def report(self) -> None:
        """Hand over what was collected."""
        self._problems.add_names("links that lead out of the folder", self._escaping)
        self._problems.add_names("folders that cannot be read", self._unreadable)
        self._problems.add_names("broken links or special files", self._special)
        self._problems.add_names("folders inside class folders", self.nested)
        self._problems.add_names("files in class folders that are not images by their ending", self.strange)
        if self._n_files > MAX_FILES:
            self._problems.add(f"more than {MAX_FILES} files")


def _shown(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def _read_headers(root: Path, files: Sequence[Path], problems: Problems) -> dict[Path, _Header]:
    """Size and mode of every usable file, without decoding; what is wrong with the others is listed by kind."""
    headers: dict[Path, _Header] = {}
    wrong: dict[str, list[str]] = defaultdict(list)
    for path in files:
        try:
            with _open(path) as image:
                problem = _header_problem(image)
                header = _Header(image.height, image.width, image.mode in _GREY_MODES)
        except Image.DecompressionBombError:
            problem = _TOO_LARGE
        except Exception as error:
            problem = f"cannot be read as images ({type(error).__name__})"
        if problem is None:
            headers[path] = header
        else:
            wrong[problem].append(_shown(root, path))
    _report(wrong, problems)
    return headers


def _header_problem(image: Image.Image) -> str | None:
    if image.width * image.height > MAX_IMAGE_PIXELS:
        return _TOO_LARGE
    if min(image.width, image.height) < MIN_SIDE:
        return f"smaller than {MIN_SIDE} pixels on a side"
    if image.mode not in _EIGHT_BIT_MODES:
        return f"not 8-bit images (pixel type {image.mode}; convert them to 0..255)"
    if getattr(image, "n_frames", 1) > 1:
        return "animated or of several pages"
    return None


def _decode(
    root: Path, headers: Mapping[Path, _Header], size: tuple[int, int] | None, problems: Problems
) -> NDArray[np.uint8] | None:
    """(N, H, W, C) uint8, squashed to one size (bilinear, antialiased); None when there is too much or none."""
    if not headers:
        return None
    height, width = size or _commonest(headers.values())
    mode = "L" if all(header.grey for header in headers.values()) else "RGB"
    total = len(headers) * height * width * len(mode)
    if total > MAX_TOTAL_BYTES:
        problems.add(f"{total / 2**30:.1f} GiB of pixels, more than {MAX_TOTAL_BYTES >> 30} GiB: set `max_per_class`")
        return None
    images = np.empty((len(headers), height, width, len(mode)), np.uint8)
    wrong: dict[str, list[str]] = defaultdict(list)
    for index, path in enumerate(headers):
        try:
            with _open(path) as image:
                image.load()
                if image.getexif().get(_ORIENTATION_TAG, 1) != 1:
                    wrong["rotated by an EXIF tag (save the pixels upright, as your training saw them)"].append(
                        _shown(root, path)
                    )
                pixels = image.convert(mode)
                if pixels.size != (width, height):
                    pixels = pixels.resize((width, height), Image.Resampling.BILINEAR)
                images[index] = np.asarray(pixels).reshape(height, width, len(mode))
        except Exception as error:
            wrong[f"damaged, cannot be decoded ({type(error).__name__})"].append(_shown(root, path))
    _report(wrong, problems)
    return images


@contextmanager
def _open(path: Path) -> Iterator[Image.Image]:
    """The image with only its header read; Pillow's size warning is left to our own, lower limit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path, formats=_FORMATS) as image:
            yield image


def _commonest(headers: Iterable[_Header]) -> tuple[int, int]:
    counts = Counter((header.height, header.width) for header in headers)
    return max(counts, key=lambda size: (counts[size], size[0] * size[1], size))


def _report(wrong: Mapping[str, list[str]], problems: Problems) -> None:
    for problem, names in sorted(wrong.items()):
        problems.add_names(problem, names)
