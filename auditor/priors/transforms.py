"""Per-sample random changes of images: crop, shift, rotation, mirror, brightness and contrast."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

N_DRAWS = 8
"""Uniform numbers one transform consumes."""


@dataclass(frozen=True)
class Ranges:
    """How far a random transform may go; the default changes nothing.

    Attributes:
        area: smallest and largest share of the picture that a crop keeps, in (0, 1].
        aspect: largest ratio of the crop's sides.
        rotate_deg: largest rotation.
        flip: mirror half of the pictures.
        brightness: largest shift of all pixels.
        contrast: largest relative change of the deviation from the mean.
    """

    area: tuple[float, float] = (1.0, 1.0)
    aspect: float = 1.0
    rotate_deg: float = 0.0
    flip: bool = False
    brightness: float = 0.0
    contrast: float = 0.0


IDENTITY = Ranges()
JITTER = Ranges(area=(0.8, 1.0), rotate_deg=5.0, flip=True, brightness=0.2, contrast=0.2)
"""PLG-MI's changes, in training its prior and in descending: small crops, turns and changes of light, mirrored."""


def transform(images: Tensor, draws: Tensor, ranges: Ranges) -> Tensor:
    """Apply one transform per image; differentiable.

    Args:
        images: (B, C, H, W) in [0, 1].
        draws: (B, N_DRAWS) uniform in [0, 1).
        ranges: limits; `IDENTITY` returns the images untouched.
    """
    if ranges == IDENTITY:
        return images
    u = draws.to(images.device)
    area = ranges.area[0] + (ranges.area[1] - ranges.area[0]) * u[:, 0]
    stretch = torch.exp((2 * u[:, 1] - 1) * (0.5 * math.log(ranges.aspect)))
    width, height = (area.sqrt() * stretch).clamp(max=1), (area.sqrt() / stretch).clamp(max=1)
    shift_x, shift_y = (2 * u[:, 2] - 1) * (1 - width), (2 * u[:, 3] - 1) * (1 - height)
    angle = (2 * u[:, 4] - 1) * math.radians(ranges.rotate_deg)
    mirror = torch.where(u[:, 5] < 0.5, -1.0, 1.0) if ranges.flip else torch.ones_like(angle)
    cos, sin = torch.cos(angle), torch.sin(angle)
    theta = torch.stack(
        [
            torch.stack([width * cos * mirror, -width * sin, shift_x], dim=1),
            torch.stack([height * sin * mirror, height * cos, shift_y], dim=1),
        ],
        dim=1,
    )
    grid = affine_grid(theta, list(images.shape), align_corners=False)
    out = grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    if ranges.contrast or ranges.brightness:
        factor = (1 + (2 * u[:, 6] - 1) * ranges.contrast).view(-1, 1, 1, 1)
        offset = ((2 * u[:, 7] - 1) * ranges.brightness).view(-1, 1, 1, 1)
        mean = out.mean(dim=(1, 2, 3), keepdim=True)
        out = ((out - mean) * factor + mean + offset).clamp(0, 1)
    return out
