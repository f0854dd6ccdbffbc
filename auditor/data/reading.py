"""Reading the images a manifest names: an image folder or an npz, with every problem reported at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from auditor.contracts.manifest import DataSpec
from auditor.data.class_map import ClassRules
from auditor.data.image_folder import read_folder
from auditor.data.image_npz import read_npz
from auditor.data.image_set import ImageSet
from auditor.data.problems import Problems
from auditor.errors import InvalidInput


def read_image_set(
    spec: DataSpec,
    base: Path,
    *,
    name: str,
    labelled: bool = True,
    n_classes: int | None = None,
    classes: Sequence[str] = (),
    min_per_class: int = 2,
    size: tuple[int, int] | None = None,
) -> ImageSet:
    """The images `spec` names.

    Labels are needed for private and held-out images. For public images (`labelled` False) they are welcome but
    optional: they are used when the folder has class folders or the npz has the key, unless the manifest sets
    `labels_key` to null.

    Whatever is wrong is fatal; nothing is skipped in silence, since a set that lost images or classes without a word
    would be audited as if it were whole. Fatal too, where labels are needed: a single class, and a class of fewer than
    `min_per_class` images (one image cannot be both fitted to and held out).

    Args:
        spec: path, keys, class map, limit per class (the images of smallest content digest are kept).
        base: folder that a relative path starts from.
        name: role of the set, for its card and for messages.
        labelled: whether every image must have a class of the target.
        n_classes: the target's class count, to check indices against; None: not checked.
        classes: class names by index of an earlier set that a folder's names must agree with (the private set's
            `class_names` when reading held-out images); ignored with a class map.
        min_per_class: smallest allowed class where labels are needed; 1 is enough for a held-out set.
        size: (H, W) to bring a folder's images to; None: the folder's commonest size.

    Raises:
        InvalidInput: all problems together.
    """
    path = base / spec.path
    problems = Problems(f"{name} ({spec.path})")
    if labelled and spec.labels_key is None:
        problems.add("labels are needed, but `labels_key` is null")
    if not path.exists():
        problems.add("does not exist")
    elif not path.is_dir() and path.suffix.lower() != ".npz":
        problems.add("neither a folder of images nor an .npz file")
    problems.raise_if_any()
    rules = ClassRules(spec.class_map, tuple(classes), n_classes)
    if path.is_dir():
        found = read_folder(path, spec, problems, rules, name=name, required=labelled, size=size)
    else:
        found = read_npz(path, spec, problems, rules, name=name, required=labelled)
    if found is not None and labelled:
        _check_classes(found, min_per_class, problems)
    problems.raise_if_any()
    if found is None:
        raise InvalidInput(f"{name} ({spec.path}): no images could be read")
    return found


def _check_classes(image_set: ImageSet, min_per_class: int, problems: Problems) -> None:
    """More than one class, and enough images in each."""
    if image_set.labels is None:
        problems.add("labels are needed, but there are none")
        return
    present, counts = np.unique(image_set.labels, return_counts=True)
    if len(present) == 1:
        problems.add(f"one class only ('{image_set.class_names[present[0]]}'): there is nothing to tell apart")
    small = [image_set.class_names[index] for index in present[counts < min_per_class]]
    problems.add_names(f"classes of fewer than {min_per_class} images", small)
