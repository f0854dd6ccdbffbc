"""The allow-list of architectures that bare weights may name: torchvision classifiers and our own small nets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from auditor.errors import UnknownName


class SmallCnn(nn.Module):
    """Plain convolution-norm-ReLU stack with pooling every two layers, then global average and a linear head."""

    def __init__(self, n_classes: int, channels: int = 3, widths: tuple[int, ...] = (32, 32, 64, 64, 128, 128)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        previous = channels
        for index, width in enumerate(widths):
            layers += [nn.Conv2d(previous, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            if index % 2 == 1:
                layers.append(nn.MaxPool2d(2))
            previous = width
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.head = nn.Linear(previous * 4, n_classes)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) normalised images to (B, K) logits."""
        return self.head(self.embed(images))  # type: ignore[no-any-return]

    def embed(self, images: Tensor) -> Tensor:
        """(B, F) penultimate features."""
        return self.pool(self.features(images)).flatten(1)  # type: ignore[no-any-return]


class _Residual(nn.Module):
    """Two 3x3 convolutions with a shortcut (He et al., CVPR 2016, arXiv 1512.03385)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.act = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H/stride, W/stride)."""
        y = self.norm2(self.conv2(self.act(self.norm1(self.conv1(x)))))
        return self.act(y + self.shortcut(x))  # type: ignore[no-any-return]


class SmallResNet(nn.Module):
    """A narrow residual network for small images: stem, one residual block per width, global average, linear head."""

    def __init__(self, n_classes: int, channels: int = 3, widths: tuple[int, ...] = (32, 64, 128)) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        blocks: list[nn.Module] = []
        previous = widths[0]
        for width in widths:
            blocks.append(_Residual(previous, width, 2))
            previous = width
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.head = nn.Linear(previous * 4, n_classes)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) normalised images to (B, K) logits."""
        return self.head(self.embed(images))  # type: ignore[no-any-return]

    def embed(self, images: Tensor) -> Tensor:
        """(B, F) penultimate features."""
        return self.pool(self.blocks(self.stem(images))).flatten(1)  # type: ignore[no-any-return]


_SMALL: dict[str, Callable[[int, int], nn.Module]] = {
    "small-cnn": lambda n_classes, channels: SmallCnn(n_classes, channels),
    "small-cnn-wide": lambda n_classes, channels: SmallCnn(n_classes, channels, (48, 48, 96, 96, 192, 192)),
    "small-resnet": lambda n_classes, channels: SmallResNet(n_classes, channels),
}

_TORCHVISION_FAMILIES = (
    "alexnet", "convnext", "densenet", "efficientnet", "mnasnet", "mobilenet", "regnet", "resnet", "resnext",
    "shufflenet", "squeezenet", "swin", "vgg", "vit", "wide_resnet",
)  # fmt: skip


def architecture_names() -> tuple[str, ...]:
    """Every name a manifest may give, our small nets first."""
    from torchvision import models  # here, since it takes as long to import as torch itself

    return (*_SMALL, *(name for name in models.list_models(module=models) if name.startswith(_TORCHVISION_FAMILIES)))


def build_architecture(name: str, *, n_classes: int, channels: int) -> nn.Module:
    """A freshly initialised network from (B, channels, H, W) to (B, n_classes) logits; no weights are fetched.

    Raises:
        UnknownName: not on the allow-list.
    """
    if name in _SMALL:
        return _SMALL[name](n_classes, channels)
    if name not in architecture_names():
        raise UnknownName(f"architecture '{name}' is not on the allow-list: {', '.join(architecture_names())}")
    from torchvision import models

    options: dict[str, Any] = {"weights": None, "num_classes": n_classes}
    network: nn.Module = models.get_model(name, **options)
    if channels != 3:
        _replace_stem(network, channels)
    return network


def _replace_stem(network: nn.Module, channels: int) -> None:
    """Give the first convolution `channels` inputs."""
    for path, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            options: dict[str, Any] = {
                name: getattr(module, name) for name in ("kernel_size", "stride", "padding", "dilation")
            }
            new = nn.Conv2d(channels, module.out_channels, bias=module.bias is not None, **options)
            parent_path, _, leaf = path.rpartition(".")
            setattr(network.get_submodule(parent_path), leaf, new)
            return
