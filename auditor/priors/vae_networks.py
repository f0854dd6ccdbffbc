"""Encoder and decoder of the VAE prior: a linear map each, plus a convolutional correction."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from auditor.priors.network import crop, grid_of, pad_to

N_LAST = 4
"""Layers of the decoder's convolutional part after its last feature map."""


class _Residual(nn.Module):
    """norm, activation, 3x3, norm, activation, 3x3, added to the input; starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) to the same."""
        y = self.conv1(leaky_relu(self.norm1(x), 0.2))
        return x + self.conv2(leaky_relu(self.norm2(y), 0.2))  # type: ignore[no-any-return]


def _widths(width: int, stages: int) -> list[int]:
    """Channels after 1, 2, ... halvings."""
    return [width * min(4, 2**index) for index in range(stages)]


class VaeEncoder(nn.Module):
    """Images to the mean and log-variance of the latent: a linear map plus a convolutional correction.

    Width 0 leaves the correction out.
    """

    def __init__(self, image_shape: tuple[int, int, int], latent_dim: int, width: int) -> None:
        super().__init__()
        channels, height, width_px = image_shape
        self.stages, rows, columns = grid_of(image_shape)
        self.canvas = (rows * 2**self.stages, columns * 2**self.stages)
        self.linear = nn.Linear(channels * height * width_px, latent_dim)
        self.body: nn.Module | None = None
        if width == 0:
            return
        widths = _widths(width, self.stages)
        layers: list[nn.Module] = [nn.PixelUnshuffle(2), nn.Conv2d(4 * channels, widths[0], 3, padding=1)]
        for index, size in enumerate(widths):
            if index:
                layers.append(nn.Conv2d(widths[index - 1], size, 4, stride=2, padding=1))
            layers.append(_Residual(size))
        self.body = nn.Sequential(*layers, nn.BatchNorm2d(widths[-1]), nn.LeakyReLU(0.2), nn.Flatten())
        self.head = nn.Linear(widths[-1] * rows * columns, 2 * latent_dim)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) in [0, 1] to two (B, D): mean and log-variance, the latter within [-8, 2]."""
        mean = self.linear(images.flatten(1)).float()
        if self.body is None:
            return mean, torch.full_like(mean, -8.0)
        correction, log_var = self.head(self.body(pad_to(images, *self.canvas) * 2 - 1)).float().chunk(2, dim=1)
        return mean + correction, (log_var - 3).clamp(-8, 2)


class VaeDecoder(nn.Module):
    """Latents to images: a linear map plus a convolutional correction (left out at width 0), clamped to [0, 1].

    The affine map in front turns N(0, I) into the distribution of the encoder's codes; it is the identity in training.
    """

    shift: Tensor
    scale: Tensor
    unscale: Tensor

    def __init__(self, image_shape: tuple[int, int, int], latent_dim: int, width: int) -> None:
        super().__init__()
        channels, height, width_px = self.image_shape = image_shape
        stages, rows, columns = grid_of(image_shape)
        self.linear = nn.Linear(latent_dim, channels * height * width_px)
        self.register_buffer("shift", torch.zeros(latent_dim))
        self.register_buffer("scale", torch.eye(latent_dim))
        self.register_buffer("unscale", torch.eye(latent_dim))
        self.body: nn.Module | None = None
        if width == 0:
            return
        widths = _widths(width, stages)[::-1]
        self.grids = [(size, rows << index, columns << index) for index, size in enumerate(widths)]
        self.head = nn.Sequential(
            nn.Linear(latent_dim, widths[0] * rows * columns), nn.Unflatten(1, (widths[0], rows, columns))
        )
        layers: list[nn.Module] = []
        for index, size in enumerate(widths):
            if index:
                layers += [nn.Upsample(scale_factor=2), nn.Conv2d(widths[index - 1], size, 3, padding=1)]
            layers += [_Residual(size), _Residual(size)]
        last = nn.Conv2d(widths[-1], 4 * channels, 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.body = nn.Sequential(*layers, nn.BatchNorm2d(widths[-1]), nn.LeakyReLU(0.2), last, nn.PixelShuffle(2))

    def codes(self, latents: Tensor) -> Tensor:
        """(B, D) ~ N(0, I) to codes distributed like the encoder's."""
        return self.shift + latents.float() @ self.scale

    def latents(self, codes: Tensor) -> Tensor:
        """The inverse of `codes`."""
        return (codes.float() - self.shift) @ self.unscale

    def paint(self, codes: Tensor) -> Tensor:
        """(B, D) codes to (B, C, H, W), not clamped."""
        return self.combine(codes, None if self.body is None else self.body(self.head(codes)))

    def combine(self, codes: Tensor, correction: Tensor | None) -> Tensor:
        """(B, D) codes and what the convolutional part drew from them to (B, C, H, W), not clamped."""
        _, height, width = self.image_shape
        painted: Tensor = self.linear(codes).float().unflatten(1, self.image_shape)
        return painted if correction is None else painted + crop(correction, height, width).float()

    def forward(self, latents: Tensor) -> Tensor:
        """(B, D) ~ N(0, I) to (B, C, H, W) in [0, 1]."""
        return self.paint(self.codes(latents)).clamp(0, 1)

    def stages(self) -> tuple[nn.Module, ...]:
        """Modules whose composition is `forward`; the weights are this network's.

        Between them lie the codes, and with a convolutional part its feature maps beside them, before every up-sampling
        and before the last convolution, all flat: (B, D + features). The pixels before the clamp are no stage: free
        pixels are what adversarial noise is made of.
        """
        if self.body is None:
            return _Codes(self), _Paint(self)
        layers = list(cast(nn.Sequential, self.body))
        cuts = [place for place, layer in enumerate(layers) if isinstance(layer, nn.Upsample)]
        blocks = [nn.Sequential(*layers[begin:end]) for begin, end in pairwise([0, *cuts, -N_LAST, None])]
        middle = (_Upsample(self, block, grid) for block, grid in zip(blocks[1:-1], self.grids[:-1], strict=True))
        return _Codes(self, blocks[0]), *middle, _Paint(self, blocks[-1], self.grids[-1])


class _Codes(nn.Module):
    """The decoder's first part: latents to codes, and the coarsest feature map."""

    def __init__(self, decoder: VaeDecoder, block: nn.Module | None = None) -> None:
        super().__init__()
        self.decoder, self.block = decoder, block

    def forward(self, latents: Tensor) -> Tensor:
        """(B, D) to (B, D + features)."""
        codes = self.decoder.codes(latents)
        return codes if self.block is None else _pack(codes, self.block(self.decoder.head(codes)))


class _Upsample(nn.Module):
    """A middle part: codes are handed on, the feature map of shape `grid` becomes a finer one."""

    def __init__(self, decoder: VaeDecoder, block: nn.Module, grid: tuple[int, int, int]) -> None:
        super().__init__()
        self.n_codes, self.block, self.grid = decoder.shift.numel(), block, grid

    def forward(self, state: Tensor) -> Tensor:
        """(B, D + features) to the same with more features."""
        codes, features = _unpack(state, self.n_codes, self.grid)
        return _pack(codes, self.block(features))


class _Paint(nn.Module):
    """The last part: codes and the finest feature map, of shape `grid`, to pictures."""

    def __init__(
        self, decoder: VaeDecoder, block: nn.Module | None = None, grid: tuple[int, int, int] | None = None
    ) -> None:
        super().__init__()
        self.decoder, self.block, self.grid = decoder, block, grid

    def forward(self, state: Tensor) -> Tensor:
        """(B, D + features) to (B, C, H, W) in [0, 1]."""
        if self.block is None or self.grid is None:
            return self.decoder.combine(state, None).clamp(0, 1)
        codes, features = _unpack(state, self.decoder.shift.numel(), self.grid)
        return self.decoder.combine(codes, self.block(features)).clamp(0, 1)


def _pack(codes: Tensor, features: Tensor) -> Tensor:
    return torch.cat([codes, features.flatten(1)], dim=1)


def _unpack(state: Tensor, n_codes: int, grid: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    features = state[:, n_codes:].unflatten(1, grid)
    return state[:, :n_codes], features.contiguous(memory_format=torch.channels_last)
