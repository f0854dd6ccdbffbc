"""Data for the guided demo: procedural identities by default, or real images where the network allows."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from auditor.data.image_set import ImageSet
from auditor.data.splits import stratified_split
from auditor.demo.identities import private_and_public
from auditor.errors import InvalidInput, UnknownName


@dataclass(frozen=True)
class DemoData:
    """What the demo audits.

    Attributes:
        private: training images of the target.
        heldout: unseen images of the same classes.
        public: images of other classes, labelled; class indices start at 0 again.
        description: one paragraph that says plainly what the images are.
        mirror_keeps_class: whether a mirrored image still shows its class (not so for digits).
    """

    private: ImageSet
    heldout: ImageSet
    public: ImageSet
    description: str
    mirror_keeps_class: bool = True


def demo_names() -> tuple[str, ...]:
    """What `demo_data` knows, the default first."""
    return tuple(_SOURCES)


def demo_data(
    name: str = "identities",
    size: int = 32,
    seed: int = 0,
    *,
    n_private: int | None = None,
    n_public: int | None = None,
    per_private: int | None = None,
    per_public: int | None = None,
) -> DemoData:
    """The demo's images.

    Args:
        name: one of `demo_names()`.
        size: side of the images in pixels.
        seed: of the renderer, or of the held-out split of real data.
        n_private: private classes; None: the source's own choice, as for the next three. Real data has what it has.
        n_public: public classes.
        per_private: training images of each private class.
        per_public: images of each public class.

    Raises:
        UnknownName: no such source.
        InvalidInput: the source needs scikit-learn or a download that failed.
    """
    if name not in _SOURCES:
        raise UnknownName(f"unknown demo data '{name}'. Known: {', '.join(_SOURCES)}.")
    counts = _Counts(n_private, n_public, per_private, per_public)
    return _SOURCES[name](size, seed, counts)


@dataclass(frozen=True)
class _Counts:
    """Numbers asked for; None leaves the choice to the source."""

    n_private: int | None
    n_public: int | None
    per_private: int | None
    per_public: int | None


def _identities(size: int, seed: int, counts: _Counts) -> DemoData:
    n_private, n_public = counts.n_private or 64, counts.n_public or 400
    private, heldout, public = private_and_public(
        n_private, n_public, counts.per_private or 20, counts.per_public or 10, size, seed
    )
    return DemoData(
        private,
        heldout,
        public,
        f"Procedural identities: {n_private} private and {n_public} other, public people, none of whom exists. A "
        "program draws their faces from random numbers; nothing in them comes from a photograph. They show how an "
        "audit works, not how real faces would fare.",
    )


def _digits(size: int, seed: int, counts: _Counts) -> DemoData:
    loaded = _sklearn("digits").load_digits()
    images = _to_bytes(np.asarray(loaded.images) / 16, size)
    return _by_class(
        images,
        np.asarray(loaded.target, dtype=np.int64),
        tuple(str(digit) for digit in range(10)),
        private=np.arange(5),
        public=np.arange(5, 10),
        seed=seed,
        counts=counts,
        mirror_keeps_class=False,
        description="Real handwritten digits (the test part of UCI's Optical Recognition of Handwritten Digits, from "
        "scikit-learn, 8 x 8 pixels enlarged): 0 to 4 are private, 5 to 9 public. With so few and such regular classes "
        "attack scores saturate, and the audit is inconclusive by rule (too few classes).",
    )


def _olivetti(size: int, seed: int, counts: _Counts) -> DemoData:
    loaded = _fetch("olivetti", lambda datasets: datasets.fetch_olivetti_faces())
    labels = np.asarray(loaded.target, dtype=np.int64)
    n_private = min(counts.n_private or 20, 39)
    return _by_class(
        _to_bytes(np.asarray(loaded.images), size),
        labels,
        tuple(f"person-{index:02}" for index in range(40)),
        private=np.arange(n_private),
        public=np.arange(n_private, 40),
        seed=seed,
        counts=counts,
        description="Real photographs: the Olivetti (AT&T) faces, 40 people with 10 grey images each, downloaded "
        f"through scikit-learn. The first {n_private} people are private, the others public.",
    )


def _lfw(size: int, seed: int, counts: _Counts) -> DemoData:
    square = (slice(68, 196), slice(61, 189))  # 128 x 128 around the face
    loaded = _fetch(
        "lfw", lambda datasets: datasets.fetch_lfw_people(min_faces_per_person=0, color=True, resize=0.5, slice_=square)
    )
    labels = np.asarray(loaded.target, dtype=np.int64)
    pixels = np.asarray(loaded.images)
    frequent = np.argsort(-np.bincount(labels), kind="stable")
    n_private = counts.n_private or 60
    return _by_class(
        _to_bytes(pixels if pixels.max() <= 1 else pixels / 255, size),
        labels,
        tuple(str(name) for name in loaded.target_names),
        private=frequent[:n_private],
        public=frequent[n_private:],
        seed=seed,
        counts=counts,
        description="Real photographs: Labeled Faces in the Wild, for research only, downloaded through scikit-learn. "
        f"The {n_private} people with the most images are private, the others public.",
    )


_SOURCES: dict[str, Callable[[int, int, _Counts], DemoData]] = {
    "identities": _identities,
    "digits": _digits,
    "olivetti": _olivetti,
    "lfw": _lfw,
}


def _sklearn(name: str) -> ModuleType:
    try:
        return importlib.import_module("sklearn.datasets")
    except ImportError as error:
        raise InvalidInput(
            f"demo data '{name}' needs scikit-learn ({error})",
            remedy="Run `pip install 'auditor[demo-data]'`, or take `--data identities`, which needs nothing.",
        ) from None


def _fetch(name: str, download: Callable[[Any], Any]) -> Any:
    datasets = _sklearn(name)
    try:
        return download(datasets)
    except (OSError, EOFError, ValueError) as error:
        raise InvalidInput(
            f"demo data '{name}' could not be downloaded: {type(error).__name__}: {error}",
            remedy="Check the network, or take `--data identities` or `--data digits`, which need none.",
        ) from error


def _to_bytes(images: NDArray[np.floating[Any]], size: int) -> NDArray[np.uint8]:
    """(N, H, W) or (N, H, W, C) in [0, 1] to (N, size, size, C) uint8, bilinear."""
    four = images if images.ndim == 4 else images[..., None]
    tensor = torch.from_numpy(four.astype(np.float32)).permute(0, 3, 1, 2)
    resized = interpolate(tensor, (size, size), mode="bilinear", antialias=True, align_corners=False)
    return (resized.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def _by_class(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    names: tuple[str, ...],
    *,
    private: NDArray[np.int64],
    public: NDArray[np.int64],
    seed: int,
    counts: _Counts,
    description: str,
    mirror_keeps_class: bool = True,
) -> DemoData:
    """Private classes split 4 : 1 into training and held-out images, the public ones beside them."""
    chosen = _choose(images, labels, names, private, counts.per_private, "private")
    fit, heldout = stratified_split(chosen, 0.2, seed)
    others = _choose(images, labels, names, public[: counts.n_public], counts.per_public, "public")
    return DemoData(fit, heldout, others, description, mirror_keeps_class)


def _choose(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    names: tuple[str, ...],
    classes: NDArray[np.int64],
    limit: int | None,
    name: str,
) -> ImageSet:
    """At most `limit` images of each of `classes`, renumbered from 0."""
    rows = [np.flatnonzero(labels == label)[:limit] for label in classes]
    renumbered = np.repeat(np.arange(len(classes)), [len(found) for found in rows])
    return ImageSet(name, images[np.concatenate(rows)], renumbered, tuple(names[label] for label in classes))
