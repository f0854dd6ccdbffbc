"""A small generator built as StyleGAN2 is, for tests of what a team may submit."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Mapping(nn.Module):
    """z (B, z_dim), normalised, through fully connected layers to w (B, w_dim); with `n_layers` to (B, L, w_dim).

    `psi` pulls w towards its mean `w_avg`; with `n_layers` only in the first half of the layers.
    """

    w_avg: Tensor

    def __init__(self, z_dim: int = 16, w_dim: int = 16, depth: int = 4, n_layers: int = 0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(n, m) for n, m in pairwise([z_dim, *[w_dim] * depth]))
        for name, parameter in self.layers.named_parameters():
            nn.init.normal_(parameter, std=1.6 / math.sqrt(parameter.shape[1]) if name.endswith("weight") else 0.2)
        self.n_layers = n_layers
        with torch.no_grad():
            self.register_buffer("w_avg", self._styles(torch.randn(1024, z_dim)).mean(dim=0))

    def _styles(self, z: Tensor) -> Tensor:
        x = z * (z.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
        return x

    def forward(self, z: Tensor, psi: Tensor | None = None) -> Tensor:
        """(B, w_dim) or (B, L, w_dim)."""
        w = self._styles(z)
        if not self.n_layers:
            return w if psi is None else self.w_avg + psi * (w - self.w_avg)
        w = w[:, None].repeat(1, self.n_layers, 1)
        if psi is None:
            return w
        cutoff = (torch.arange(self.n_layers) < self.n_layers // 2).float()[:, None]
        strength = 1 + cutoff * (psi - 1)
        return self.w_avg + strength * (w - self.w_avg)


class ModulatedConv(nn.Module):
    """A convolution whose kernel is scaled per picture by a style, and normalised (`demodulate`).

    `grouped` scales the kernels themselves and runs one group per picture, as NVIDIA's fused form does; otherwise the
    features are scaled before and after a plain convolution, which is the same.
    """

    def __init__(self, n_in: int, n_out: int, size: int, w_dim: int, *, demodulate: bool, grouped: bool) -> None:
        super().__init__()
        self.affine = nn.Linear(w_dim, n_in)
        nn.init.normal_(self.affine.weight, std=1 / math.sqrt(w_dim))
        nn.init.ones_(self.affine.bias)
        self.weight = nn.Parameter(torch.randn(n_out, n_in, size, size))
        self.gain = 1 / math.sqrt(n_in * size**2)
        self.demodulate, self.grouped = demodulate, grouped

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """(B, n_in, H, W) and (B, w_dim) to (B, n_out, H, W)."""
        style, weight, pad = self.affine(w), self.weight * self.gain, self.weight.shape[-1] // 2
        B, C, H, W = x.shape
        kernels = weight[None] * style[:, None, :, None, None]  # (B, n_out, n_in, k, k)
        scale = (kernels.square().sum(dim=(2, 3, 4)) + 1e-8).rsqrt()
        if self.grouped:
            if self.demodulate:
                kernels = kernels * scale[:, :, None, None, None]
            y = F.conv2d(x.reshape(1, B * C, H, W), kernels.reshape(-1, *weight.shape[1:]), padding=pad, groups=B)
            return y.reshape(B, -1, H, W)
        y = F.conv2d(x * style[:, :, None, None], weight, padding=pad)
        return y * scale[:, :, None, None] if self.demodulate else y


class StyledLayer(nn.Module):
    """Modulated convolution, noise, bias, LeakyReLU."""

    noise: Tensor

    def __init__(self, n_in: int, n_out: int, side: int, w_dim: int, *, grouped: bool) -> None:
        super().__init__()
        self.conv = ModulatedConv(n_in, n_out, 3, w_dim, demodulate=True, grouped=grouped)
        self.register_buffer("noise", torch.randn(side, side))
        self.strength = nn.Parameter(torch.tensor(0.1))
        self.bias = nn.Parameter(0.1 * torch.randn(n_out))

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None = None) -> Tensor:
        """(B, n_in, H, W) and (B, w_dim) to (B, n_out, H, W); `noise` (B, 1, H, W) takes the place of the own one."""
        x = self.conv(x, w) + (self.noise if noise is None else noise) * self.strength
        return F.leaky_relu(x + self.bias[:, None, None], 0.2) * math.sqrt(2)


class Synthesis(nn.Module):
    """Styles (B, L, w_dim), or (B, w_dim) for all layers, to pictures (B, channels, side, side) around [-1, 1].

    A constant 4x4 start, two styled layers per size, and a picture that every size adds to (the skip architecture).
    """

    def __init__(
        self,
        w_dim: int = 16,
        channels: int = 1,
        side: int = 8,
        width: int = 8,
        *,
        grouped: bool = False,
    ) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.randn(1, width, 4, 4))
        sides = [4 * 2**i for i in range(int(math.log2(side)) - 1)]
        of_layers = sorted(sides * 2)[1:]  # one at 4x4, then two a size
        self.layers = nn.ModuleList(StyledLayer(width, width, size, w_dim, grouped=grouped) for size in of_layers)
        self.pictures = nn.ModuleList(
            ModulatedConv(width, channels, 1, w_dim, demodulate=False, grouped=grouped) for _ in sides
        )
        self.n_styles = 2 * len(sides)

    def forward(self, w: Tensor, noise: Tensor | None = None) -> Tensor:
        """(B, channels, side, side); `noise` (B, 1, 4, 4) is that of the first layer."""
        styles = w.unbind(1) if w.ndim == 3 else [w] * self.n_styles
        x = self.layers[0](self.start.repeat(w.shape[0], 1, 1, 1), styles[0], noise)
        image: Tensor = self.pictures[0](x, styles[1])
        for level, to_picture in enumerate(list(self.pictures)[1:]):
            first, second = self.layers[2 * level + 1], self.layers[2 * level + 2]
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            x = second(first(x, styles[2 * level + 1]), styles[2 * level + 2])
            drawn = to_picture(x, styles[2 * level + 3])
            image = drawn + F.interpolate(image, scale_factor=2.0, mode="bilinear", align_corners=False)
        return image


class TinyStyleGan(nn.Module):
    """Mapping and synthesis in one: z (B, z_dim) to pictures."""

    def __init__(self, mapping: Mapping, synthesis: Synthesis) -> None:
        super().__init__()
        self.mapping, self.synthesis = mapping, synthesis

    def forward(self, z: Tensor) -> Tensor:
        """(B, channels, side, side)."""
        image: Tensor = self.synthesis(self.mapping(z))
        return image
