"""Deep image prior: the latent is the weights of an untrained convolutional decoder, one network per picture."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import conv2d, instance_norm, interpolate, leaky_relu

from auditor.contracts.access import Access
from auditor.priors.base import Oracle, Trait
from auditor.priors.network import NetworkPrior, PriorConfig, crop, grid_of
from auditor.tensors import ImageBatch, RunContext

_KERNEL = 3
_SLOPE = 0.2
_SHIFT_SCALE = 0.1
"""Standard deviation of the shifts that stand where a trained network has biases of 0."""


class DipConfig(PriorConfig):
    """Parameters of the deep image prior."""

    width: int = Field(default=16, ge=2, le=128)
    """Channels of every hidden layer; the latent has about 9 width^2 coordinates per doubling."""
    doublings: int = Field(default=3, ge=1, le=6)
    """Doublings of the resolution from the fixed input to the picture; fewer where the picture is too small for it."""


class DipGenerator(nn.Module):
    """Latent (B, D) to (B, C, H, W) in [0, 1]: row i is drawn by the network whose standardised weights are latent i.

    Per doubling: 3x3 convolution, instance norm, shift, LeakyReLU, bilinear upsampling; then a convolution to the
    colours and a sigmoid. Weights are the latents times He et al.'s standard deviation. All rows share the fixed input
    and go through one grouped convolution per layer.
    """

    fixed_input: Tensor

    def __init__(self, image_shape: tuple[int, int, int], width: int, doublings: int) -> None:
        super().__init__()
        channels, self.height, self.columns = image_shape
        count = min(doublings, grid_of(image_shape)[0])
        grid = (math.ceil(self.height / 2**count), math.ceil(self.columns / 2**count))
        self.layers = [width] * count + [channels]
        self.width = width
        self.latent_dim = sum(after * (width * _KERNEL**2 + 1) for after in self.layers)
        self.register_buffer("fixed_input", torch.zeros(width, *grid))

    def forward(self, latents: Tensor) -> Tensor:
        """(B, D) to (B, C, H, W) in [0, 1]."""
        sizes = [size for after in self.layers for size in (after * self.width * _KERNEL**2, after)]
        parts = latents.split(sizes, dim=1)
        x = self.fixed_input.expand(len(latents), -1, -1, -1)
        for index, shifts in enumerate(parts[1:-1:2]):
            x = instance_norm(self._convolve(x, parts[2 * index]))
            x = leaky_relu(x + _SHIFT_SCALE * shifts[:, :, None, None], _SLOPE)
            x = interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        colours = self._convolve(x, parts[-2]) + _SHIFT_SCALE * parts[-1][:, :, None, None]
        return torch.sigmoid(crop(colours, self.height, self.columns))

    def _convolve(self, x: Tensor, latents: Tensor) -> Tensor:
        """(B, width, H, W) and (B, O*width*9) to (B, O, H, W): every row by its own weights."""
        deviation = math.sqrt(2 / ((1 + _SLOPE**2) * self.width * _KERNEL**2))
        weights = (deviation * latents).reshape(-1, self.width, _KERNEL, _KERNEL)  # (B*O, width, 3, 3)
        joined = conv2d(x.flatten(0, 1)[None], weights, padding=_KERNEL // 2, groups=len(x))
        return joined.view(len(x), -1, *x.shape[2:])


class DipPrior(NetworkPrior):
    """Prefers what a convolutional decoder draws easily: smooth, self-similar pictures. It has seen no image."""

    traits: frozenset[Trait] = frozenset({Trait.PIXELS})

    def guess(self, images: Tensor, ctx: RunContext, labels: Tensor | None = None) -> Tensor:
        """(B, D): one draw from N(0, I) for all; at the mean, where all weights are zero, there is no gradient."""
        draw = torch.randn(1, self.latent_dim, generator=ctx.rng("prior", self.name, "projection"))
        return draw.to(images.device).expand(len(images), -1)


class DipBuilder:
    """Knowledge-free prior: the structure of an untrained convolutional decoder, whose weights are the latent.

    Departures: instance norm for batch norm, since every picture has a network of its own; no skip connections; a few
    thousand weights, where the paper's network has two million.
    """

    name = "dip"
    paper = "Ulyanov, Vedaldi and Lempitsky, CVPR 2018 (Deep image prior), arXiv 1711.10925"
    Config = DipConfig
    traits: frozenset[Trait] = DipPrior.traits
    access: Access | None = None

    def __init__(self, config: DipConfig) -> None:
        self.config = config

    def train(self, public: ImageBatch, ctx: RunContext, oracle: Oracle | None = None) -> DipPrior:
        """Nothing is learned: the shape of `public` is used, and the fixed input drawn from U(0, 0.1)."""
        _, channels, height, width = public.images.shape
        generator = self._generator((channels, height, width))
        noise = torch.empty(generator.fixed_input.shape)
        generator.fixed_input = 0.1 * noise.uniform_(generator=ctx.rng("prior", self.name, "input"))
        generator.to(ctx.device)
        return self._wrap(generator, (channels, height, width))

    def blank(self, image_shape: tuple[int, int, int], n_classes: int = 0) -> DipPrior:
        """The same with an input of zeros, to load a stored one into."""
        return self._wrap(self._generator(image_shape), image_shape)

    def _generator(self, image_shape: tuple[int, int, int]) -> DipGenerator:
        return DipGenerator(image_shape, self.config.width, self.config.doublings)

    def _wrap(self, generator: DipGenerator, image_shape: tuple[int, int, int]) -> DipPrior:
        return DipPrior(
            name=self.name,
            config=self.config,
            image_shape=image_shape,
            latent_dim=generator.latent_dim,
            networks=nn.ModuleDict({"generator": generator}),
        )
