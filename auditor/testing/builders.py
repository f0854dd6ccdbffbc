"""Small labelled image sets with a known structure, for tests."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from auditor.data.image_set import ImageSet
from auditor.tensors import ImageBatch


def toy_images(templates: Tensor, per_class: int, *, noise: float = 0.05, seed: int = 0) -> ImageBatch:
    """`per_class` noisy copies of each template, class by class.

    Args:
        templates: (K, C, H, W) in [0, 1].
        per_class: images per class.
        noise: standard deviation of the pixel noise.
        seed: of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(templates)).repeat_interleave(per_class)
    clean = templates.detach().cpu()[labels]
    return ImageBatch((clean + noise * torch.randn(clean.shape, generator=generator)).clamp(0, 1), labels)


def toy_image_set(
    templates: Tensor, per_class: int, *, name: str = "toy", noise: float = 0.05, seed: int = 0
) -> ImageSet:
    """The same as an `ImageSet` of 8-bit images, classes named `class-0`, `class-1`, ..."""
    return image_set_of(toy_images(templates, per_class, noise=noise, seed=seed), name=name)


def image_set_of(batch: ImageBatch, *, name: str = "toy") -> ImageSet:
    """A batch rounded to 8 bits as an `ImageSet`; classes are named `class-0`, `class-1`, ... when there are labels."""
    images = (batch.images.detach().cpu() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    if batch.labels is None:
        return ImageSet(name, images)
    labels = batch.labels.cpu().numpy().astype(np.int64)
    names = tuple(f"class-{index}" for index in range(int(labels.max()) + 1))
    return ImageSet(name, images, labels, names)
