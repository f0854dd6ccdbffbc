"""Encoder and decoder of the VAE prior: a linear map each, plus a convolutional correction."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from auditor.priors.network import crop, grid_of, pad_to


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
        _, height, width = self.image_shape
        painted: Tensor = self.linear(codes).float().unflatten(1, self.image_shape)
        if self.body is None:
            return painted
        return painted + crop(self.body(self.head(codes)), height, width).float()

    def forward(self, latents: Tensor) -> Tensor:
        """(B, D) ~ N(0, I) to (B, C, H, W) in [0, 1]."""
        return self.paint(self.codes(latents)).clamp(0, 1)
