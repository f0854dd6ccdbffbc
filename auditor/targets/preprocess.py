"""Images in [0, 1] to what a model wants."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from auditor.contracts.manifest import InputSpec


class Preprocess(nn.Module):
    """Scale to `low..high`, subtract the mean, divide by the standard deviation; one multiply-add in all.

    Args:
        spec: the model's input.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        mean = torch.tensor(spec.mean or (0.0,) * spec.channels, dtype=torch.float64)
        std = torch.tensor(spec.std or (1.0,) * spec.channels, dtype=torch.float64)
        shape = (1, spec.channels, 1, 1)
        self.register_buffer("scale", ((spec.high - spec.low) / std).float().reshape(shape))
        self.register_buffer("shift", ((spec.low - mean) / std).float().reshape(shape))
        self.is_identity = bool((self.scale == 1).all()) and bool((self.shift == 0).all())

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] to raw model input of the same shape."""
        return images if self.is_identity else images * self.scale + self.shift
