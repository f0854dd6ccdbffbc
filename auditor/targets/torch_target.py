"""A white-box target: a torch module with its input scaling."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from auditor.contracts.submission import TargetCard
from auditor.targets.preprocess import Preprocess


class TorchTarget:
    """A differentiable classifier in eval mode, its parameters without gradients.

    Args:
        module: raw model input (B, C, H, W) to (B, K) logits or log-probabilities. Taken over, not copied: it is put in
            eval mode, its parameters are frozen, and it is moved to `device`.
        card: what it is.
        device: where it runs; images are moved there.
        channels_last: keep weights and images in channels-last memory, faster for convolutions on CPU and GPU.
    """

    def __init__(
        self, module: nn.Module, card: TargetCard, device: torch.device | None = None, *, channels_last: bool = True
    ) -> None:
        self._card = card
        self._device = device or torch.device("cpu")
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self._module = module.eval().requires_grad_(False).to(self._device)
        if channels_last:
            self._module = self._module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.preprocess = Preprocess(card.input).to(self._device)

    @property
    def card(self) -> TargetCard:
        """What it is and which access levels it offers."""
        return self._card

    @property
    def n_classes(self) -> int:
        """Number of classes K."""
        return self._card.n_classes

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of its input."""
        spec = self._card.input
        return (spec.channels, spec.height, spec.width)

    @property
    def module(self) -> nn.Module:
        """From raw model input to logits or log-probabilities."""
        return self._module

    def logits(self, images: Tensor) -> Tensor:
        """(B, C, H, W) float32 in [0, 1] to (B, K) float32, differentiable with respect to the images.

        The values are log-probabilities when the submitted model ends in a softmax or its logarithm; `log_softmax`
        leaves those unchanged, so both kinds are used alike.
        """
        if tuple(images.shape[1:]) != self.image_shape:
            raise ValueError(f"the target takes images of shape {self.image_shape}, got {tuple(images.shape[1:])}")
        prepared = self.preprocess(images.to(self._device))
        out: Tensor = self._module(prepared.contiguous(memory_format=self._format))
        return out.float()
