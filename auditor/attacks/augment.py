"""Random changes of images along an optimisation, one stream of draws per row."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from auditor.attacks.rows import RowStreams
from auditor.priors.transforms import IDENTITY, JITTER, N_DRAWS, Ranges, transform

__all__ = [
    "IDENTITY",
    "JITTER",
    "N_DRAWS",
    "OPTIMISE",
    "SELECT",
    "Augmenter",
    "Change",
    "Ranges",
    "StepDraws",
    "transform",
]

OPTIMISE = Ranges(area=(0.9, 1.0))
"""During optimisation: PPA's crop of 0.9 to 1 of the area."""
SELECT = Ranges(area=(0.5, 0.9), aspect=1.2, flip=True)
"""For the final selection: PPA's crop of 0.5 to 0.9 of the area, sides within 1.2, mirrored."""


class StepDraws:
    """Uniform numbers for every row, step and copy, drawn in blocks of steps.

    Args:
        streams: one generator per row.
        copies: copies of every image per step.
        size: numbers per copy.
    """

    _BLOCK = 32

    def __init__(self, streams: RowStreams, copies: int, size: int) -> None:
        self._streams, self._copies, self._size = streams, copies, size
        self._block, self._draws = -1, torch.empty(0)

    def __call__(self, index: Tensor, step: int) -> Tensor:
        """(copies * B, size) in [0, 1) for rows `index` (B,) at `step`, copy-major, on the CPU.

        Steps must come in order; a block of draws is consumed for all rows at once.
        """
        while self._block < step // self._BLOCK:
            self._draws = self._streams.uniform(self._BLOCK, self._copies, self._size)
            self._block += 1
        return self._draws[index, step % self._BLOCK].transpose(0, 1).flatten(0, 1)


Change = Callable[[Tensor, Tensor, int], Tensor]
"""(copies * B, C, H, W) images of rows `index` (B,) at `step`, copy-major, to changed ones."""


class Augmenter:
    """Random transforms along an optimisation, one of its own for every row, step and copy.

    Args:
        streams: one generator per row.
        ranges: limits of the transforms.
        copies: transformed copies of every image per step.
        changes: what is done to the copies after that, in order.
    """

    def __init__(self, streams: RowStreams, ranges: Ranges, copies: int, changes: tuple[Change, ...] = ()) -> None:
        self.copies = copies
        self._draws, self._ranges, self._changes = StepDraws(streams, copies, N_DRAWS), ranges, changes

    def __call__(self, images: Tensor, index: Tensor, step: int) -> Tensor:
        """(B, C, H, W) images of rows `index` at `step` to (copies * B, C, H, W), copy-major; steps come in order."""
        seen = transform(images.repeat(self.copies, 1, 1, 1), self._draws(index, step), self._ranges)
        for change in self._changes:
            seen = change(seen, index, step)
        return seen
