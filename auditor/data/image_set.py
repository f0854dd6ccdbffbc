"""A set of images held as bytes, with its content hash."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from auditor.tensors import ImageBatch


@dataclass(frozen=True)
class ImageSet:
    """Images as they came, uint8.

    Attributes:
        name: for cards and messages.
        images: (N, H, W, C) uint8.
        labels: (N,) int64 class indices, or None when unlabelled.
        class_names: name of each class index; empty when unlabelled.
    """

    name: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None = None
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return int(self.images.shape[0])

    @cached_property
    def digest(self) -> str:
        """sha256 over shape, pixels, labels and their order."""
        digest = hashlib.sha256(repr(self.images.shape).encode())
        digest.update(np.ascontiguousarray(self.images).tobytes())
        digest.update(b"\0" if self.labels is None else np.ascontiguousarray(self.labels).tobytes())
        return digest.hexdigest()

    @property
    def n_classes(self) -> int | None:
        """Number of distinct labels present, or None when unlabelled."""
        return None if self.labels is None else int(np.unique(self.labels).size)

    def select(self, index: NDArray[np.int64] | NDArray[np.bool_]) -> ImageSet:
        """The rows at `index`, in that order."""
        return ImageSet(
            self.name, self.images[index], None if self.labels is None else self.labels[index], self.class_names
        )

    def batch(self, shape: tuple[int, int, int]) -> ImageBatch:
        """As tensors of `shape` (C, H, W) in [0, 1]: antialiased bilinear resize, grey <-> RGB as needed."""
        channels, height, width = shape
        images = torch.from_numpy(np.ascontiguousarray(self.images)).permute(0, 3, 1, 2).float() / 255
        if images.shape[1] != channels:
            if channels == 1:
                images = images.mean(dim=1, keepdim=True)
            elif images.shape[1] == 1:
                images = images.expand(-1, channels, -1, -1)
            else:
                raise ValueError(f"cannot turn {images.shape[1]} channels into {channels}")
        if images.shape[-2:] != (height, width):
            images = interpolate(images, (height, width), mode="bilinear", antialias=True, align_corners=False)
        labels = None if self.labels is None else torch.from_numpy(self.labels.astype(np.int64))
        return ImageBatch(images.clamp(0, 1).contiguous(), labels)
