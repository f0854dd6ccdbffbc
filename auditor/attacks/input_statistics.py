"""What the batch norms of a network see, against what they remember of its training data."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Moments:
    """First and second moments of a batch norm's inputs, channel by channel.

    Inputs are counted from the running mean and in running standard deviations, so that training data as a whole has
    moments 0 and about 1.

    Attributes:
        first: (B, C) mean over a picture's pixels.
        second: (B, C) mean of squares.
        remembered: (C,) the second moment that the running variance stands for.
    """

    first: Tensor
    second: Tensor
    remembered: Tensor

    def pooled(self) -> Moments:
        """(1, C): the moments of all rows together, without gradient."""
        first, second = self.first.detach().mean(dim=0, keepdim=True), self.second.detach().mean(dim=0, keepdim=True)
        return Moments(first, second, self.remembered)

    def deviation(self) -> Tensor:
        """(B,): root mean square over channels of the mean's distance to the running one, plus that of the variance's.

        The first is in running standard deviations, the second relative to the running variance.
        """
        variance = self.second - self.first.square()
        return _root_mean_square(self.first) + _root_mean_square(variance - self.remembered)


def _root_mean_square(values: Tensor) -> Tensor:
    """(B,) over the channels of (B, C); the gradient at zero is finite."""
    return (values.square().mean(dim=1) + 1e-12).sqrt()


def moments(inputs: Tensor, norm: nn.BatchNorm2d) -> Moments:
    """The moments of (B, C, H, W) inputs of `norm`, which has running statistics; float32 whatever the inputs are."""
    mean, var = norm.running_mean, norm.running_var
    if mean is None or var is None:
        raise ValueError("the batch norm has no running statistics")
    scale = var.float() + norm.eps
    units = (inputs.float().flatten(2) - mean.float()[:, None]) / scale.sqrt()[:, None]  # (B, C, H*W)
    return Moments(units.mean(dim=2), units.square().mean(dim=2), var.float() / scale)


def norms_of(layers: tuple[nn.Module, ...]) -> list[nn.BatchNorm2d]:
    """The BatchNorm2d layers that have running statistics."""
    return [layer for layer in layers if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None]


class InputStatistics:
    """Watches the inputs of a network's batch norms; its hooks live inside `with`.

    Args:
        layers: all modules of the network, itself first.

    Raises:
        ValueError: there is no BatchNorm2d with running statistics.
    """

    def __init__(self, layers: tuple[nn.Module, ...]) -> None:
        self._norms = norms_of(layers)
        if not self._norms:
            raise ValueError("the model has no BatchNorm2d layer with running statistics")
        self._network = layers[0]
        self._seen: dict[nn.BatchNorm2d, list[Tensor]] = {}
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> InputStatistics:
        """Start watching."""
        self._hooks = [self._network.register_forward_pre_hook(lambda _module, _inputs: self._seen.clear())]
        self._hooks += [norm.register_forward_pre_hook(self._watch) for norm in self._norms]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop watching, whatever happened."""
        for hook in self._hooks:
            hook.remove()
        self._seen.clear()

    def _watch(self, norm: nn.BatchNorm2d, inputs: tuple[Tensor, ...]) -> None:
        self._seen.setdefault(norm, []).append(inputs[0])

    def latest(self, n_rows: int) -> list[Moments]:
        """Layer by layer, in the order they ran, what the forward pass just made of `n_rows` pictures.

        A graph of a fixed batch size runs in several parts, of which the last is padded.
        """
        return [moments(torch.cat(inputs)[:n_rows], norm) for norm, inputs in self._seen.items()]
