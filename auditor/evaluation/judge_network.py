"""The judge's network: whitened principal components beside a small residual embedder, under one learned metric.

Whitened components with a within-identity metric are the classic of face recognition (Turk & Pentland, CVPR 1991;
Belhumeur et al., PAMI 1997): closed form, seconds to fit, and hard to beat with a few thousand public images. The
residual network sees what is not linear. Two views of a picture that fail differently make a judge that is harder to
please by accident.
"""

from __future__ import annotations

import hashlib

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize

from auditor.contracts.base import Contract, digest_of


class JudgeShape(Contract):
    """Everything that decides the network's shape."""

    channels: int = Field(ge=1)
    height: int = Field(ge=8)
    width: int = Field(ge=8)
    base_width: int = Field(default=32, ge=4)
    """Channels of the first stage; doubled three times."""
    embedding_dim: int = Field(default=192, ge=8)
    """Outputs of the network."""
    n_components: int = Field(default=0, ge=0)
    """Principal components beside them; 0: none."""
    mirror: bool = False
    """Whether the embedding is averaged with that of the mirror image."""


class _Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, halving the side (He et al., CVPR 2016, arXiv 1512.03385)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.LeakyReLU(0.1),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(2, ceil_mode=True), nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        )
        self.act = nn.LeakyReLU(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, ceil(H/2), ceil(W/2))."""
        y: Tensor = self.act(self.body(x) + self.shortcut(x))
        return y


class JudgeNetwork(nn.Module):
    """Images in [0, 1] to unit embeddings: residual stages, a 2x2 grid of features, a linear neck, the metric.

    The grid keeps where a feature was, which matters for aligned pictures. `raw` is what training sees; the principal
    components are set before or after it by `set_components`, the metric by `set_metric` at the end.
    """

    pixel_mean: Tensor
    components: Tensor
    mean: Tensor
    metric: Tensor

    def __init__(self, shape: JudgeShape) -> None:
        super().__init__()
        self.shape = shape
        width, stride = shape.base_width, max(1, min(shape.height, shape.width) // 32)
        stages: list[nn.Module] = [
            nn.Conv2d(shape.channels, width, 2 * stride + 1, stride=stride, padding=stride, bias=False),
            nn.BatchNorm2d(width),
            nn.LeakyReLU(0.1),
        ]
        previous = width
        for factor in (1, 2, 4, 8):
            stages.append(_Block(previous, factor * width))
            previous = factor * width
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.neck = nn.Sequential(
            nn.Linear(4 * previous, shape.embedding_dim, bias=False), nn.BatchNorm1d(shape.embedding_dim)
        )
        pixels, D = shape.channels * shape.height * shape.width, shape.embedding_dim + shape.n_components
        self.register_buffer("pixel_mean", torch.zeros(pixels))
        self.register_buffer("components", torch.zeros(pixels, shape.n_components))
        self.register_buffer("mean", torch.zeros(D))
        self.register_buffer("metric", torch.eye(D))

    @property
    def architecture(self) -> str:
        """Name for the card."""
        return f"judge-resnet-{self.shape.base_width}+pca-{self.shape.n_components}"

    def raw(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] to (B, D) embeddings before the metric, not normalised."""
        features = self.pool(self.stages((images - 0.5) * 4)).flatten(1)
        embedded: Tensor = self.neck(features)
        return embedded

    def linear(self, images: Tensor) -> Tensor:
        """(B, n_components) whitened principal components, not normalised."""
        return (images.flatten(1) - self.pixel_mean) @ self.components

    def unit(self, images: Tensor) -> Tensor:
        """(B, D) both parts as unit vectors, side by side, averaged over the mirror image where that fits."""
        embedded, linear = self.raw(images).float(), self.linear(images)
        if self.shape.mirror:
            mirrored = images.flip(3)
            embedded, linear = embedded + self.raw(mirrored).float(), linear + self.linear(mirrored)
        return torch.cat([normalize(embedded, dim=1), normalize(linear, dim=1)], dim=1)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] to (B, D) unit vectors under the metric."""
        return normalize((self.unit(images) - self.mean) @ self.metric, dim=1)

    def set_components(self, mean: Tensor, components: Tensor) -> None:
        """Fix the linear part: (P,) mean image and (P, n_components) whitened directions."""
        self.pixel_mean.copy_(mean)
        self.components.copy_(components)

    def set_metric(self, mean: Tensor, metric: Tensor) -> None:
        """Fix the metric: embeddings become `(unit - mean) @ metric`; (D,) and (D, D)."""
        self.mean.copy_(mean)
        self.metric.copy_(metric)

    def digest(self, objective: str) -> str:
        """sha256 over shape, objective and every weight."""
        state = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            state.update(f"{name}\0{tuple(tensor.shape)}\0".encode())
            state.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest_of({"shape": self.shape, "objective": objective, "state": state.hexdigest()})
