"""Starting weights from the public data: supervised where it is labelled, self-supervised where it is not.

Self-supervised means telling how far an image was turned: Gidaris, Singh and Komodakis, "Unsupervised Representation
Learning by Predicting Image Rotations", ICLR 2018, arXiv 1803.07728.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from auditor.errors import InvalidInput
from auditor.tensors import ImageBatch

_VALIDATION_FRAC = 0.1
_MIN_IMAGES = 16


@dataclass(frozen=True)
class PublicTask:
    """What a network learns on the public images.

    Attributes:
        objective: `labels` or `rotation`.
        train: images and labels 0..n_outputs-1.
        validation: chooses the epoch, and shows that something was learned.
        n_outputs: classes of the task.
        described: for the report.
    """

    objective: Literal["labels", "rotation"]
    train: ImageBatch
    validation: ImageBatch
    n_outputs: int
    described: str

    @property
    def chance(self) -> float:
        """Accuracy of guessing."""
        return 1 / self.n_outputs


def public_task(
    public: ImageBatch, objective: Literal["auto", "labels", "rotation"], generator: torch.Generator
) -> PublicTask:
    """The task that `objective` asks for, split into training and validation.

    Args:
        public: images in [0, 1], labelled or not.
        objective: `auto` takes the labels where at least two classes have two images each.
        generator: for the split.

    Raises:
        InvalidInput: too few images, or labels were asked for and are not there.
    """
    if len(public) < _MIN_IMAGES:
        raise InvalidInput(
            f"{len(public)} public images are too few to pre-train on; at least {_MIN_IMAGES} are needed"
        )
    usable = _usable_classes(public)
    if objective == "labels" and len(usable) < 2:
        raise InvalidInput("the public data has no two classes with two images each: pre-train by `rotation`")
    if objective == "rotation" or len(usable) < 2:
        return _rotation_task(public, generator)
    return _label_task(public, usable, generator)


def _usable_classes(public: ImageBatch) -> Tensor:
    if public.labels is None:
        return torch.empty(0, dtype=torch.int64)
    labels, counts = public.labels.unique(return_counts=True)
    usable: Tensor = labels[counts >= 2]
    return usable


def _label_task(public: ImageBatch, usable: Tensor, generator: torch.Generator) -> PublicTask:
    """Classes with two images or more; one image of a tenth of the images, at most one per class, is set aside."""
    assert public.labels is not None  # noqa: S101 - usable classes come from labels
    rows = torch.isin(public.labels, usable).nonzero().flatten()
    rows = rows[torch.randperm(len(rows), generator=generator)]
    labels = torch.searchsorted(usable, public.labels[rows])
    first = torch.zeros(len(rows), dtype=torch.bool)
    seen: set[int] = set()
    wanted = max(2, round(_VALIDATION_FRAC * len(rows)))
    for place, label in enumerate(labels.tolist()):
        if label not in seen and len(seen) < wanted:
            seen.add(label)
            first[place] = True
    images = public.images[rows]
    return PublicTask(
        "labels",
        ImageBatch(images[~first], labels[~first]),
        ImageBatch(images[first], labels[first]),
        len(usable),
        f"classification of {len(rows)} public images of {len(usable)} classes",
    )


def _rotation_task(public: ImageBatch, generator: torch.Generator) -> PublicTask:
    """Every image in its four orientations; the images set aside are other images, not other turns."""
    square = public.images.shape[2] == public.images.shape[3]
    turns = (0, 1, 2, 3) if square else (0, 2)
    order = torch.randperm(len(public), generator=generator)
    cut = max(4, round(_VALIDATION_FRAC * len(public)))

    def turned(rows: Tensor) -> ImageBatch:
        images = torch.cat([torch.rot90(public.images[rows], turn, dims=(2, 3)) for turn in turns])
        return ImageBatch(images, torch.arange(len(turns)).repeat_interleave(len(rows)))

    described = f"self-supervised: which of {len(turns)} ways {len(public)} public images were turned (no labels used)"
    return PublicTask("rotation", turned(order[cut:]), turned(order[:cut]), len(turns), described)
