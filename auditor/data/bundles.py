"""Bundles: an image set as one npz whose bytes depend on the content alone."""

from __future__ import annotations

import errno
import json
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auditor.data.image_set import ImageSet
from auditor.errors import InvalidInput, StorageFailure

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The date of every member: the earliest a zip can hold."""


def save_bundle(image_set: ImageSet, path: Path) -> None:
    """Write `image_set` to `path`, whole or not at all; equal sets give equal bytes.

    Stored without compression, so that the bytes do not depend on a compressor's version. Readable by `numpy.load`:
    `images` (N, H, W, C) uint8, `labels` (N,) int64 when there are any, `about` (JSON text: name and class names).

    Raises:
        StorageFailure: the file could not be written.
    """
    about = json.dumps({"name": image_set.name, "class_names": list(image_set.class_names)}, ensure_ascii=True)
    arrays: dict[str, NDArray[Any]] = {"about": np.array(about), "images": image_set.images.astype("u1", copy=False)}
    if image_set.labels is not None:
        arrays["labels"] = image_set.labels.astype("<i8", copy=False)
    temporary: Path | None = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as handle:
            temporary = Path(handle.name)
            with zipfile.ZipFile(handle, "w", zipfile.ZIP_STORED) as archive:
                for key, array in arrays.items():
                    with archive.open(zipfile.ZipInfo(f"{key}.npy", _EPOCH), "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, np.asarray(array, order="C"), allow_pickle=False)
        os.replace(temporary, path)  # noqa: PTH105
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror
        raise StorageFailure(f"{path.name} could not be written: {reason}") from error


def load_bundle(path: Path) -> ImageSet:
    """The image set that `save_bundle` wrote to `path`.

    Raises:
        InvalidInput: missing, damaged, or not a bundle.
    """
    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as arrays:
            about = json.loads(str(arrays["about"]))
            images = np.ascontiguousarray(arrays["images"])
            labels = arrays["labels"].astype(np.int64) if "labels" in arrays.files else None
        image_set = ImageSet(about["name"], images, labels, tuple(about["class_names"]))
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise InvalidInput(f"{path.name} is not a readable image bundle: {error}") from error
    if images.dtype != np.uint8 or images.ndim != 4 or (labels is not None and labels.shape != images.shape[:1]):
        raise InvalidInput(f"{path.name} is not an image bundle: its arrays do not fit together")
    return image_set
