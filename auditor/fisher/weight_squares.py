"""Summing squared per-sample gradients of one parameter over several backward passes.

A weight's gradient is a sum over positions t: g_oi = sum_t delta_ot a_it. Two ways to sum g^2 and theta^2 g^2 over o, i
and the backward passes:

- directly: form g for a few samples at a time, square, reduce;
- by pairs of positions: sum_oi theta_oi^2 g_oi^2 = sum_tt' sum_oi theta_oi^2 (delta_ot delta_ot') (a_it a_it'), where
  the backward passes enter through sum delta_ot delta_ot' alone, so that the expensive product is made once for all of
  them. No weight-sized array per sample is formed. With one position this is the factorisation of a linear layer's
  squares (ghost norms: Li et al., ICLR 2022, arXiv 2110.05679).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

_BLOCK_BYTES = 8 << 20
"""Bytes of per-sample weight gradients formed at a time."""
_PAIR_BYTES = 64 << 20
"""Bytes of products of inputs formed at a time."""
_MOST_POSITIONS = 64
_PASSES_TOGETHER = 32


def prefer_pairs(n_positions: int, n_passes: int) -> bool:
    """Whether pairs cost less: T(T+1)/2 products once, against T products and the traffic of g in every pass."""
    return n_positions <= _MOST_POSITIONS and n_positions + 1 < n_passes * (1 + 50 / n_positions)


class ParameterSquares(ABC):
    """Running sums for one parameter; one `add` per backward pass."""

    @abstractmethod
    def begin(self, n_passes: int) -> None:
        """Forget what was summed; `n_passes` calls of `add` follow."""

    @abstractmethod
    def add(self, delta: Tensor) -> None:
        """Take in the gradient at the layer's output, (B, ...)."""

    @abstractmethod
    def sums(self) -> Tensor:
        """(2, B) float64: sum of g^2 and sum of theta^2 g^2 over the parameter and the passes."""


class VectorSquares(ParameterSquares):
    """A parameter whose per-sample gradient is small enough to be formed: biases, norms, scales.

    Args:
        theta: the parameter.
        gradient: output gradient to per-sample gradients (B, ...) in the parameter's order.
    """

    def __init__(self, theta: Tensor, gradient: Callable[[Tensor], Tensor]) -> None:
        self._weight = theta.detach().flatten().square()
        self._gradient = gradient
        self._total: Tensor | None = None

    def begin(self, n_passes: int) -> None:
        """Forget."""
        self._total = None

    def add(self, delta: Tensor) -> None:
        """Form, square, reduce."""
        square = self._gradient(delta).flatten(1).square()
        found = torch.stack([square.sum(dim=1), square @ self._weight.to(square.dtype)]).double()
        self._total = found if self._total is None else self._total + found

    def sums(self) -> Tensor:
        """(2, B)."""
        if self._total is None:
            raise RuntimeError("nothing was added")
        return self._total


class MatrixSquares(ParameterSquares):
    """The weight of a linear layer or a convolution.

    Args:
        theta: (G, O, I), G groups.
        inputs: gives the (B, G, T, I) layer inputs at the T positions; called at the first `add`.
        arrange: output gradient to (B, G, O, T).
    """

    def __init__(self, theta: Tensor, inputs: Callable[[], Tensor], arrange: Callable[[Tensor], Tensor]) -> None:
        self._weight = theta.detach().square()
        self._inputs, self._arrange = inputs, arrange
        self._n_passes = 0
        self._by_pairs = False
        self._a: Tensor | None = None
        self._waiting: list[Tensor] = []
        self._pairs: Tensor | None = None
        self._total: Tensor | None = None

    def begin(self, n_passes: int) -> None:
        """Forget; which way to go is decided at the first `add`, when the positions are known."""
        self._n_passes, self._a, self._waiting, self._pairs, self._total = n_passes, None, [], None, None

    def add(self, delta: Tensor) -> None:
        """Sum the pair products of the output gradient, or the squares themselves."""
        delta = self._arrange(delta)
        T = delta.shape[3]
        if self._a is None:
            self._a = self._inputs()
            self._by_pairs = prefer_pairs(T, self._n_passes)
        if self._by_pairs:
            self._waiting.append(delta)
            if len(self._waiting) == _PASSES_TOGETHER:
                self._absorb()
        else:
            found = self._direct(delta, self._a)
            self._total = found if self._total is None else self._total + found

    def sums(self) -> Tensor:
        """(2, B)."""
        if self._by_pairs and self._a is not None:
            return self._from_pairs(self._absorb(), self._a)
        if self._total is None:
            raise RuntimeError("nothing was added")
        return self._total

    def _absorb(self) -> Tensor:
        """Add the waiting passes' products to the pairs: (B, G, O, P)."""
        if self._waiting:
            stacked = torch.stack(self._waiting, dim=-1)  # (B, G, O, T, passes)
            found = _upper(stacked @ stacked.transpose(3, 4))
            self._pairs = found if self._pairs is None else self._pairs.add_(found)
            self._waiting = []
        if self._pairs is None:
            raise RuntimeError("nothing was added")
        return self._pairs

    def _direct(self, delta: Tensor, a: Tensor) -> Tensor:
        weight = self._weight.flatten().to(delta.dtype)
        rows = max(1, _BLOCK_BYTES // (weight.numel() * delta.element_size()))
        parts = []
        for d, x in zip(delta.split(rows), a.split(rows), strict=True):
            square = (d @ x).flatten(1).square_()
            parts.append(torch.stack([square.sum(dim=1), square @ weight]))
        return torch.cat(parts, dim=1).double()

    def _from_pairs(self, pairs: Tensor, a: Tensor) -> Tensor:
        T = a.shape[2]
        twice = _upper(2 - torch.eye(T, dtype=a.dtype, device=a.device))  # t, t' and t', t
        weight = self._weight.to(a.dtype)
        rows = max(1, _PAIR_BYTES // (a[0, :, 0].numel() * len(twice) * a.element_size()))
        parts = []
        for d, x in zip(pairs.split(rows), a.split(rows), strict=True):
            product = torch.cat([x[:, :, t : t + 1] * x[:, :, t:] for t in range(T)], dim=2)  # (b, G, P, I)
            scaled = d * twice
            squared = (scaled.sum(dim=2) * product.sum(dim=3)).sum(dim=(1, 2), dtype=torch.float64)
            relative = (scaled * (weight @ product.transpose(2, 3))).sum(dim=(1, 2, 3), dtype=torch.float64)
            parts.append(torch.stack([squared, relative]))
        return torch.cat(parts, dim=1).clamp_min(0)  # rounding may leave a tiny negative


def _upper(square: Tensor) -> Tensor:
    """(..., T, T) to the entries with t <= t', row by row: (..., T(T+1)/2)."""
    T = square.shape[-1]
    return torch.cat([square[..., t, t:] for t in range(T)], dim=-1)


def windows(
    x: Tensor,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> Tensor:
    """What every output position of a convolution sees: (B, C, H, W) to (B, G, T, rows * columns * C/G).

    Channels run fastest, so that the copy reads contiguous memory (several times faster than `unfold`).
    """
    padded = pad(x, (padding[1], padding[1], padding[0], padding[0])).permute(0, 2, 3, 1).contiguous()
    B, H, W, C = padded.shape
    height = (H - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
    width = (W - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
    b, h, w, _ = padded.stride()
    seen = padded.as_strided(
        (B, groups, height, width, *kernel, C // groups),
        (b, C // groups, h * stride[0], w * stride[1], h * dilation[0], w * dilation[1], 1),
    )
    return seen.reshape(B, groups, height * width, -1)
