"""How far a target equals the public model it was fine-tuned from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from auditor.contracts.access import Access
from auditor.contracts.manifest import ModelSpec
from auditor.contracts.submission import SplitPoint
from auditor.errors import InvalidInput
from auditor.loading.inspection import inspect_model
from auditor.loading.probe import probe_images
from auditor.loading.target_loading import load_target
from auditor.targets.base import Target, offers
from auditor.targets.split import CutPoint, cut_at, cut_points

_PROBES = 6
_RELATIVE = 1e-4
"""Largest difference for which two features count as one, as a share of the largest feature."""


def find_public_front(target: Target, path: Path, spec: ModelSpec) -> SplitPoint | None:
    """As `shared_front`, with the public model in the file at `path`.

    Args:
        target: the submission.
        path: the public model.
        spec: the submission's; the public model's class count is taken from its own file.

    Raises:
        RefusedFile: as for a submission.
        InvalidInput: the file cannot be read, takes other images than the submission, or gives the same answers: then
            it is the submission itself, and whoever is told that all of it is public looks for nothing.
    """
    like = spec.model_copy(update={"name": "public-model", "input": target.card.input, "n_classes": None})
    public = load_target(path, inspect_model(path, like), torch.device("cpu"))
    images = probe_images(target.card.input, _PROBES)
    with torch.no_grad():
        if _same(target.logits(images), public.logits(images)):
            raise InvalidInput(
                "it gives the same answers as the submission, so that nothing of the submission would be private",
                remedy="Name the model that the submission was fine-tuned from, before it saw the private images.",
            )
    return shared_front(target, public)


def shared_front(target: Target, public: Target) -> SplitPoint | None:
    """The last place up to which `target` computes what `public` does.

    Told by what passes there for the same pictures, so that names, batch norms folded by an exporter and the formats of
    the two files do not matter. None: they differ from the first layer on, or one of them cannot be cut.

    Args:
        target: on the CPU.
        public: on the CPU; takes the same images.
    """
    if not (offers(target, Access.WHITE_BOX) and offers(public, Access.WHITE_BOX)):
        return None
    images = probe_images(target.card.input, _PROBES)
    known = [features for _, features in _passing(public, images)]
    for point, features in reversed(list(_passing(target, images))):
        if point.shape != target.image_shape and any(_same(features, other) for other in known):
            return SplitPoint(layer=point.name, shape=point.shape)
    return None


@torch.no_grad()
def _passing(target: Target, images: Tensor) -> Iterator[tuple[CutPoint, Tensor]]:
    """Every cut point in order, and what passes there."""
    for point in cut_points(target):
        yield point, cut_at(target, point).encode(images)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool((a - b).abs().max() <= _RELATIVE * b.abs().max()) and bool(b.abs().max() > 0)
