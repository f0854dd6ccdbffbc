"""The toy target with batch norms that remember its templates: the same answer, and statistics to be matched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from auditor.contracts.access import Access
from auditor.testing.toy import EVERY_TOY_ACCESS, TemplateClassifier, ToyTarget


class NormalizedClassifier(TemplateClassifier):
    """A `TemplateClassifier` whose input goes through two batch norms, each undone again: of pixels, then of 2x2 cells.

    Their running statistics are those of the templates.

    Attributes:
        pixels: BatchNorm2d over the C channels.
        cells: BatchNorm2d over the 4 C pixels of a 2x2 cell.
    """

    def __init__(self, templates: Tensor, sharpness: float = 1.0) -> None:
        super().__init__(templates, sharpness)
        self.pixels = _remembering(templates)
        self.cells = _remembering(pixel_unshuffle(self.pixels(templates), 2))

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to (B, K); H and W are even."""
        normal = self.pixels(images)
        cells = self.cells(pixel_unshuffle(normal, 2))
        back: Tensor = _undone(pixel_shuffle(_undone(cells, self.cells), 2), self.pixels)
        return super().forward(back)


class NormalizedToyTarget(ToyTarget):
    """A `ToyTarget` for attacks that read batch-norm statistics; logits are the toy's, up to rounding."""

    def __init__(
        self,
        templates: Tensor,
        *,
        sharpness: float = 1.0,
        access: Sequence[Access] = EVERY_TOY_ACCESS,
        name: str = "toy-normalized",
    ) -> None:
        super().__init__(templates, sharpness=sharpness, access=access, name=name)
        self._network = NormalizedClassifier(templates, sharpness).eval()


@torch.no_grad()
def _remembering(values: Tensor) -> nn.BatchNorm2d:
    """A batch norm in eval mode whose running statistics are those of (N, C, H, W) `values`."""
    norm = nn.BatchNorm2d(values.shape[1], affine=False).eval()
    norm.running_mean = values.mean(dim=(0, 2, 3))
    norm.running_var = values.var(dim=(0, 2, 3), correction=0)
    return norm


def _undone(values: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """What `norm` made `values` of."""
    mean: Any = norm.running_mean
    var: Any = norm.running_var
    undone: Tensor = values * (var + norm.eps).sqrt()[:, None, None] + mean[:, None, None]
    return undone
