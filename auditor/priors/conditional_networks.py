"""Networks of the priors that draw a class at a time, the prior they make, and what their trainings share."""

from __future__ import annotations

from itertools import pairwise

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu
from torch.nn.utils.parametrizations import spectral_norm

from auditor.priors.base import Trait
from auditor.priors.network import NetworkPrior, PriorConfig, crop, grid_of, pad_to
from auditor.tensors import RunContext


class ConditionalGanConfig(PriorConfig):
    """Parameters that every conditional GAN has; step counts and widths suit a CPU at 32x32."""

    latent_dim: int = Field(default=128, ge=2)
    """Coordinates of the latent."""
    width: int = Field(default=16, ge=4, le=512)
    """Channels at the finest resolution (the papers' networks: 64); doubles per halving, up to sixteen times."""
    critic_steps: int = Field(default=2, ge=1)
    """Discriminator steps per generator step (the papers: 5)."""
    batch_size: int = Field(default=64, ge=2)
    lr: float = Field(default=1e-3, gt=0)
    """Step size of both Adams (the papers, with a hundred times the steps: 2e-4)."""
    ema: float = Field(default=0.99, ge=0, lt=1)
    """Decay of the weight average of the generator that is kept."""
    flip: bool = True
    """Mirror half of the training images."""


class ConditionalBatchNorm(nn.Module):
    """BatchNorm whose gain and shift are looked up by class (de Vries et al., NeurIPS 2017, arXiv 1707.00683)."""

    def __init__(self, channels: int, n_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.gain = nn.Embedding(n_classes, channels)
        self.shift = nn.Embedding(n_classes, channels)
        nn.init.ones_(self.gain.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """(B, C, H, W) and (B,) int64 to (B, C, H, W)."""
        out: Tensor = self.norm(x) * self.gain(labels)[:, :, None, None] + self.shift(labels)[:, :, None, None]
        return out


class ConditionalGenerator(nn.Module):
    """Linear to the coarse grid; then twice as large, 3x3 convolution, class-conditional BatchNorm, ReLU; sigmoid.

    The papers' networks have residual blocks of two such convolutions, which learn too slowly for a CPU's few steps.
    """

    def __init__(self, image_shape: tuple[int, int, int], latent_dim: int, width: int, n_classes: int) -> None:
        super().__init__()
        channels, self.height, self.columns = image_shape
        stages, rows, columns = grid_of(image_shape)
        widths = [width * min(16, 2**index) for index in range(stages, -1, -1)]
        self.grid = (widths[0], rows, columns)
        self.linear = nn.Linear(latent_dim, widths[0] * rows * columns)
        self.norms = nn.ModuleList([ConditionalBatchNorm(after, n_classes) for after in widths])
        self.convolutions = nn.ModuleList(
            [nn.Conv2d(before, after, 3, padding=1, bias=False) for before, after in pairwise(widths)]
        )
        self.end = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        """(B, D) and (B,) int64 to (B, C, H, W) in [0, 1]."""
        x = relu(self.norms[0](self.linear(latents).unflatten(1, self.grid), labels))
        for convolution, norm in zip(self.convolutions, list(self.norms)[1:], strict=True):
            x = relu(norm(convolution(interpolate(x, scale_factor=2.0)), labels))
        return crop(torch.sigmoid(self.end(x)), self.height, self.columns)


class _Trunk(nn.Module):
    """Spectrally normalised 4x4 convolutions with stride 2, one 3x3 on the coarse grid, and the sum over it.

    Miyato et al., ICLR 2018, arXiv 1802.05957.
    """

    def __init__(self, image_shape: tuple[int, int, int], width: int) -> None:
        super().__init__()
        stages, rows, columns = grid_of(image_shape)
        self.canvas = (rows * 2**stages, columns * 2**stages)
        widths = [image_shape[0], *(width * min(8, 2**index) for index in range(stages))]
        self.n_features = 2 * widths[-1]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [spectral_norm(nn.Conv2d(before, after, 4, stride=2, padding=1)), nn.LeakyReLU(0.1)]
        layers += [spectral_norm(nn.Conv2d(widths[-1], self.n_features, 3, padding=1)), nn.LeakyReLU(0.1)]
        self.body = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] to (B, n_features)."""
        features: Tensor = self.body(2 * pad_to(images, *self.canvas) - 1).sum(dim=(2, 3))
        return features


class ProjectionDiscriminator(nn.Module):
    """`l(h) + <e_y, h>` over the trunk's features h (Miyato and Koyama, ICLR 2018, arXiv 1802.05637)."""

    def __init__(self, image_shape: tuple[int, int, int], width: int, n_classes: int) -> None:
        super().__init__()
        self.trunk = _Trunk(image_shape, width)
        self.linear = spectral_norm(nn.Linear(self.trunk.n_features, 1))
        self.embedding = spectral_norm(nn.Embedding(n_classes, self.trunk.n_features))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] and (B,) int64 to (B,), larger is more real and more of the class."""
        features = self.trunk(images)
        score: Tensor = self.linear(features).squeeze(1) + (self.embedding(labels) * features).sum(dim=1)
        return score


class ClassifyingDiscriminator(nn.Module):
    """Two heads over the trunk's features: real or drawn, and which class (Odena et al., ICML 2017, arXiv 1610.09585).

    The class head is not spectrally normalised: it has to become sure.
    """

    def __init__(self, image_shape: tuple[int, int, int], width: int, n_classes: int) -> None:
        super().__init__()
        self.trunk = _Trunk(image_shape, width)
        self.real = spectral_norm(nn.Linear(self.trunk.n_features, 1))
        self.classes = nn.Linear(self.trunk.n_features, n_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) in [0, 1] to (B,) logits of being real and (B, K) logits of the classes."""
        features = self.trunk(images)
        return self.real(features).squeeze(1), self.classes(features)


class SurrogateClassifier(nn.Module):
    """3x3 convolutions with stride 2, BatchNorm and ReLU, then a linear layer over the whole coarse grid."""

    def __init__(self, image_shape: tuple[int, int, int], width: int, n_classes: int) -> None:
        super().__init__()
        stages, rows, columns = grid_of(image_shape)
        self.canvas = (rows * 2**stages, columns * 2**stages)
        widths = [image_shape[0], *(width * min(16, 2**index) for index in range(stages))]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            layers += [nn.MaxPool2d(2)]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * rows * columns, n_classes))

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] to (B, K) logits."""
        logits: Tensor = self.body(2 * pad_to(images, *self.canvas) - 1)
        return logits


class ConditionalPrior(NetworkPrior):
    """A prior that draws a class at a time; `project` starts from the nearest of the class's samples."""

    traits: frozenset[Trait] = frozenset({Trait.CONDITIONAL})
    n_guesses = 256

    @torch.no_grad()
    def guess(self, images: Tensor, ctx: RunContext, labels: Tensor | None = None) -> Tensor:
        """Per image, the latent of the nearest of `n_guesses` random samples of its class."""
        if labels is None:
            raise ValueError(f"prior '{self.name}' draws a class at a time and was not told which")
        latents = torch.randn(self.n_guesses, self.latent_dim, generator=ctx.rng("prior", "projection"))
        latents = latents.to(images.device)
        nearest = torch.empty(len(images), dtype=torch.int64, device=images.device)
        for label in labels.unique().tolist():
            wanted = torch.nonzero(labels == label).squeeze(1)
            samples = [self.decode(z, labels.new_full((len(z),), label)) for z in latents.split(ctx.batch_size)]
            distances = torch.cdist(images[wanted].flatten(1), torch.cat(samples).flatten(1))
            nearest[wanted] = distances.argmin(dim=1)
        return latents[nearest]


def draw_conditions(
    size: int, latent_dim: int, n_classes: int, generator: torch.Generator, device: torch.device
) -> tuple[Tensor, Tensor]:
    """(size, latent_dim) latents ~ N(0, I) and (size,) uniform classes, drawn on the CPU, on `device`."""
    latents = torch.randn(size, latent_dim, generator=generator)
    return latents.to(device), torch.randint(n_classes, (size,), generator=generator).to(device)


def update(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step of `optimizer` on `loss`; no other parameters, the target's least of all, get a gradient."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward(inputs=[p for group in optimizer.param_groups for p in group["params"]])  # type: ignore[no-untyped-call]
    optimizer.step()
