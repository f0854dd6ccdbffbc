"""From the labels a data set carries (folder names, npz labels) to the target's class indices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from auditor.data.problems import Problems

RawLabels = Sequence[str] | NDArray[np.int64]
"""One label per image: names, or class indices as they are."""


@dataclass(frozen=True)
class ClassRules:
    """What labels must agree with.

    Attributes:
        class_map: label (as text) to index, from the manifest.
        known: class names by index, of an earlier set or from the file itself.
        n_classes: the target's class count; every index must be below it. None: not checked.
    """

    class_map: Mapping[str, int] | None = None
    known: Sequence[str] = ()
    n_classes: int | None = None

    @property
    def range_text(self) -> str:
        """How an index outside the range is called in a message."""
        return (
            "class indices below 0"
            if self.n_classes is None
            else f"class indices outside the model's 0..{self.n_classes - 1}"
        )

    def allows(self, index: int) -> bool:
        """Whether the target has a class `index`."""
        return index >= 0 and (self.n_classes is None or index < self.n_classes)


@dataclass(frozen=True)
class ClassTable:
    """Labels as class indices.

    Attributes:
        labels: (N,) int64.
        names: name of each index from 0 on.
    """

    labels: NDArray[np.int64]
    names: tuple[str, ...]


def resolve_labels(raw: RawLabels, rules: ClassRules, problems: Problems) -> ClassTable | None:
    """Class indices for `raw`; None, with every reason in `problems`, when there is no safe answer.

    A class map must name every label that occurs and nothing else, give every class its own index, and leave no index
    out below its highest. Without one, names take the index they have in `rules.known`, else their place in sorted
    order; integer labels are class indices already.
    """
    if rules.class_map is not None:
        mapping: Mapping[str, int] = rules.class_map
        complete = _check_map(raw, mapping, problems)
    elif isinstance(raw, np.ndarray):
        return _as_they_are(raw, rules, problems)
    else:
        mapping, complete = _by_name(sorted(set(raw)), rules, problems)
    outside = [f"{name} -> {index}" for name, index in mapping.items() if not rules.allows(index)]
    problems.add_names(rules.range_text, outside)
    if outside or not complete:
        return None
    names = {index: name for name, index in mapping.items()} | dict(
        enumerate(rules.known if not rules.class_map else ())
    )
    labels = np.array([mapping[str(label)] for label in raw], dtype=np.int64)
    return ClassTable(labels, tuple(names.get(index, str(index)) for index in range(max(names, default=-1) + 1)))


def _check_map(raw: RawLabels, class_map: Mapping[str, int], problems: Problems) -> bool:
    present = {str(label) for label in raw}
    unknown, unmapped = sorted(set(class_map) - present), sorted(present - set(class_map))
    problems.add_names("classes of `class_map` that have no images", unknown)
    problems.add_names("classes that `class_map` leaves out", unmapped)
    counts = Counter(class_map.values())
    shared = [index for index, count in sorted(counts.items()) if count > 1]
    for index in shared:
        names = sorted(name for name, value in class_map.items() if value == index)
        problems.add_names(f"classes to which `class_map` gives the same index {index}", names)
    gaps = [str(index) for index in range(max(counts, default=-1) + 1) if index not in counts]
    problems.add_names(
        "gaps in `class_map` (to audit only some of a model's classes, give an npz labelled with the model's own "
        "indices), no class has index",
        gaps,
    )
    return not (unknown or unmapped or shared or gaps)


def _by_name(names: Sequence[str], rules: ClassRules, problems: Problems) -> tuple[dict[str, int], bool]:
    if rules.known:
        places = {name: index for index, name in enumerate(rules.known)}
        strangers = [name for name in names if name not in places]
        problems.add_names("classes that the private images do not have", strangers)
        return {name: places[name] for name in names if name in places}, not strangers
    complete = rules.n_classes is None or len(names) == rules.n_classes
    if not complete:
        problems.add(
            f"{len(names)} classes for a model of {rules.n_classes}: their sorted order may not be the model's, "
            "so give a `class_map`"
        )
        return {}, False
    return {name: index for index, name in enumerate(names)}, True


def _as_they_are(raw: NDArray[np.int64], rules: ClassRules, problems: Problems) -> ClassTable | None:
    present = [int(label) for label in np.unique(raw)]
    outside = [str(index) for index in present if not rules.allows(index)]
    problems.add_names(rules.range_text, outside)
    if outside:
        return None
    n = max(max(present, default=-1) + 1, len(rules.known))
    names = tuple(rules.known[index] if index < len(rules.known) else str(index) for index in range(n))
    return ClassTable(raw.astype(np.int64), names)
