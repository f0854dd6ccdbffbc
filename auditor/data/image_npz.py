"""An npz of images and labels: headers are checked before anything is allocated, and nothing is unpickled."""

from __future__ import annotations

import difflib
import hashlib
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auditor.contracts.manifest import DataSpec
from auditor.data.class_map import ClassRules, RawLabels, resolve_labels
from auditor.data.image_set import ImageSet
from auditor.data.limits import MAX_TOTAL_BYTES, MIN_SIDE, choose_by_content
from auditor.data.problems import Problems

_READ_ERRORS = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError)


def read_npz(
    path: Path, spec: DataSpec, problems: Problems, rules: ClassRules, *, name: str, required: bool
) -> ImageSet | None:
    """The images and labels under the keys of `spec`; None when `problems` received any.

    Labels are integers (class indices) or text. An array `class_names` beside them names the indices.

    Args:
        path: the .npz file.
        spec: keys; `labels_key` None means no labels; `max_per_class`.
        problems: receives what is wrong.
        rules: what the labels must agree with.
        name: of the set.
        required: whether labels are needed; otherwise a missing key means no labels.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            images = _read_array(archive, spec.images_key, problems)
            labels = _read_labels(archive, spec.labels_key, problems, required=required)
            names = _read_class_names(archive) if isinstance(labels, np.ndarray) and not rules.known else ()
    except _READ_ERRORS as error:
        problems.add(f"not a readable npz archive ({error})")
        return None
    pixels = None if images is None else _as_pixels(images, spec.images_key, problems)
    table = None
    if labels is not None:
        table = resolve_labels(labels, ClassRules(rules.class_map, rules.known or names, rules.n_classes), problems)
        if images is not None and images.ndim and len(labels) != len(images):
            problems.add(f"{len(images)} images but {len(labels)} labels")
    elif spec.max_per_class is not None and not problems:
        problems.add("`max_per_class` needs labels")
    if problems or pixels is None:
        return None
    if table is None:
        return ImageSet(name, pixels)
    image_set = ImageSet(name, pixels, table.labels, table.names)
    if spec.max_per_class is None:
        return image_set
    digests = [hashlib.sha256(image.tobytes()).digest() for image in pixels]
    return image_set.select(choose_by_content(table.labels.tolist(), digests, spec.max_per_class))


def _read_array(archive: zipfile.ZipFile, key: str, problems: Problems) -> NDArray[Any] | None:
    """The array under `key`, once its header has been found plausible."""
    keys = [member.removesuffix(".npy") for member in archive.namelist() if member.endswith(".npy")]
    if key not in keys:
        close = difflib.get_close_matches(key, keys, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"it has: {', '.join(keys) or 'nothing'}"
        problems.add(f"no array '{key}'; {hint}")
        return None
    member = archive.getinfo(f"{key}.npy")
    with archive.open(member) as handle:
        version = np.lib.format.read_magic(handle)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(handle)
        elif version == (2, 0):
            shape, _, dtype = np.lib.format.read_array_header_2_0(handle)
        else:
            problems.add(f"array '{key}' is stored in npy version {version}, which is not read")
            return None
    n_bytes = math.prod(shape) * dtype.itemsize
    if dtype.hasobject:
        problems.add(f"array '{key}' holds pickled Python objects, which are never read; save plain numbers")
    elif n_bytes > MAX_TOTAL_BYTES:
        problems.add(f"array '{key}' has {n_bytes / 2**30:.1f} GiB, more than {MAX_TOTAL_BYTES >> 30} GiB")
    elif n_bytes > member.file_size:
        problems.add(f"array '{key}' is damaged: shorter than its header says")
    else:
        with archive.open(member) as handle:
            array: NDArray[Any] = np.lib.format.read_array(handle, allow_pickle=False)
            return array
    return None


def _as_pixels(images: NDArray[Any], key: str, problems: Problems) -> NDArray[np.uint8] | None:
    """(N, H, W, C) uint8."""
    before = len(problems)
    shape = " x ".join(map(str, images.shape))
    if images.ndim == 4 and images.shape[3] not in (1, 2, 3, 4) and images.shape[1] in (1, 3, 4):
        problems.add(f"'{key}' is {shape}, channels first; give N x H x W x C: `images.transpose(0, 2, 3, 1)`")
    elif images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3, 4)):
        problems.add(f"'{key}' is {shape}; it must be N x H x W or N x H x W x C with 1, 3 or 4 channels")
    elif len(images) == 0:
        problems.add("no images found")
    elif min(images.shape[1:3]) < MIN_SIDE:
        problems.add(f"'{key}' is {shape}: images smaller than {MIN_SIDE} pixels on a side")
    if images.dtype.kind == "f":
        problems.add(
            f"'{key}' holds {images.dtype} numbers; give 8-bit pixels: `(images * 255).round().astype('uint8')`"
        )
    elif images.dtype != np.uint8:
        problems.add(f"'{key}' holds {images.dtype} numbers; give 8-bit pixels (uint8, 0..255)")
    elif images.size and int(images.max()) <= 1:
        problems.add(f"'{key}' has no pixel above 1: it seems to be scaled to 0..1; multiply by 255")
    if len(problems) > before:
        return None
    return np.ascontiguousarray(images if images.ndim == 4 else images[..., None])


def _read_labels(archive: zipfile.ZipFile, key: str | None, problems: Problems, *, required: bool) -> RawLabels | None:
    if key is None or (not required and f"{key}.npy" not in archive.namelist()):
        return None
    labels = _read_array(archive, key, problems)
    if labels is None:
        return None
    if labels.ndim != 1:
        problems.add(f"'{key}' must have one label per image; its shape is {labels.shape}")
    elif labels.dtype.kind in "iu":
        if labels.size and (int(labels.max()) > 2**31 or int(labels.min()) < -(2**31)):
            problems.add(f"'{key}' holds numbers that cannot be class indices")
        else:
            return labels.astype(np.int64)
    elif labels.dtype.kind == "U":
        return [str(label) for label in labels]
    else:
        problems.add(f"'{key}' holds {labels.dtype}; give integers (class indices) or text")
    return None


def _read_class_names(archive: zipfile.ZipFile) -> tuple[str, ...]:
    """Names of the class indices, when the archive has them as one row of text."""
    if "class_names.npy" not in archive.namelist():
        return ()
    names = _read_array(archive, "class_names", Problems("class_names"))
    return tuple(map(str, names)) if names is not None and names.ndim == 1 and names.dtype.kind == "U" else ()
