"""The Target protocol."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from auditor.contracts.access import Access
from auditor.contracts.submission import TargetCard


class Target(Protocol):
    """A loaded classifier. Images in are (B, C, H, W) float32 in [0, 1]; the target scales and normalises itself."""

    @property
    def card(self) -> TargetCard:
        """What it is and which access levels it offers."""
        ...

    @property
    def n_classes(self) -> int:
        """Number of classes K."""
        ...

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of its input."""
        ...

    def logits(self, images: Tensor) -> Tensor:
        """(B, K) float32 logits or log-probabilities (either works under log_softmax). Differentiable if white-box."""
        ...

    @property
    def module(self) -> nn.Module | None:
        """The differentiable module, raw model input (normalised images) to model output; None if score-level only."""
        ...


def offers(target: Target, access: Access) -> bool:
    """Whether `target` can be audited at `access`."""
    return access in target.card.access
