"""What attacks on the picture itself share: total variation, and jitter by whole pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from auditor.attacks.augment import IDENTITY, Augmenter, StepDraws
from auditor.attacks.base import KeyedContext, Rows
from auditor.attacks.objectives import Scene
from auditor.attacks.rows import RowStreams


def total_variation(scene: Scene) -> Tensor:
    """(B,) mean squared difference of horizontal neighbours plus that of vertical ones."""
    images = scene.images
    across = (images[..., 1:] - images[..., :-1]).square().flatten(1).mean(dim=1)
    down = (images[..., 1:, :] - images[..., :-1, :]).square().flatten(1).mean(dim=1)
    return across + down


def rolled(images: Tensor, draws: Tensor, shift: int, *, flip: bool) -> Tensor:
    """Roll each image by whole pixels, what leaves on one side coming back on the other, and mirror half of them.

    Args:
        images: (B, C, H, W).
        draws: (B, 3) uniform in [0, 1): down, across, mirror.
        shift: largest shift in pixels, either way.
        flip: whether to mirror.
    """
    H, W = images.shape[-2:]
    u = draws.to(images.device)
    steps = (u[:, :2] * (2 * shift + 1)).floor().long() - shift  # (B, 2)
    rows = (torch.arange(H, device=u.device) - steps[:, :1]) % H  # (B, H)
    columns = (torch.arange(W, device=u.device) - steps[:, 1:]) % W  # (B, W)
    if flip:
        columns = torch.where(u[:, 2:] < 0.5, W - 1 - columns, columns)
    down = images.gather(2, rows[:, None, :, None].expand_as(images))
    return down.gather(3, columns[:, None, None, :].expand_as(images))


class Roll:
    """Roll and mirror every picture at every step, each by its own draws.

    Args:
        streams: one generator per row.
        shift: largest shift in pixels, either way.
        flip: mirror half of the pictures.
    """

    def __init__(self, streams: RowStreams, shift: int, *, flip: bool) -> None:
        self._draws, self._shift, self._flip = StepDraws(streams, 1, 3), shift, flip

    def __call__(self, images: Tensor, index: Tensor, step: int) -> Tensor:
        """(B, C, H, W) images of rows `index`, rolled."""
        return rolled(images, self._draws(index, step), self._shift, flip=self._flip)


def jitter(ctx: KeyedContext, rows: Rows, shift: int, *, flip: bool) -> Augmenter | None:
    """One rolled copy of every picture per step, as an objective takes it; None where there is nothing to do."""
    if not shift and not flip:
        return None
    roll = Roll(RowStreams(ctx, rows, "roll"), shift, flip=flip)
    return Augmenter(RowStreams(ctx, rows, "augment"), IDENTITY, copies=1, changes=(roll,))
