"""The helper networks of attacks on split inference: features to images, and images to features."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

Shape = tuple[int, ...]


class _Residual(nn.Module):
    """Two normalised 3x3 convolutions with a shortcut (He et al., CVPR 2016, arXiv 1512.03385)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) to the same."""
        y: Tensor = torch.relu(x + self.body(x))
        return y


class AsMap(nn.Module):
    """Features of any shape as a map (B, C', H', W').

    Maps keep their place, with channels first or last, whichever leaves equal sides; tokens (T, D) with T or T - 1 a
    square become a map of D channels, without the class token; anything else becomes channels of one pixel.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.given = shape
        self.side = math.isqrt(shape[0]) if len(shape) == 2 else 0
        self.channels_last = len(shape) == 3 and shape[0] == shape[1] != shape[2]
        if self.channels_last:
            shape = (shape[2], *shape[:2])
        self.is_tokens = len(shape) == 2 and self.side > 1 and shape[0] - self.side**2 in (0, 1)
        if self.is_tokens:
            shape = (shape[1], self.side, self.side)
        self.shape = (shape[0], shape[1], shape[2]) if len(shape) == 3 else (math.prod(shape), 1, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(B, *shape) to (B, C', H', W')."""
        if self.channels_last:
            return features.movedim(-1, 1)
        if self.is_tokens:
            features = features[:, -(self.side**2) :].movedim(-1, 1)
        return features.reshape(len(features), *self.shape)

    def back(self, maps: Tensor) -> Tensor:
        """The inverse; a class token, which no map holds, becomes the mean of the others."""
        if self.channels_last:
            return maps.movedim(1, -1)
        if not self.is_tokens:
            return maps.reshape(len(maps), *self.given)
        tokens = maps.flatten(2).movedim(1, -1)
        missing = self.given[0] - tokens.shape[1]
        return torch.cat([tokens.mean(dim=1, keepdim=True)[:, :missing], tokens], dim=1)


class Decoder(nn.Module):
    """Features to the image they came from: residual blocks at their scale, then one upsampling per octave, a sigmoid.

    After the decoders of He, Zhang and Lee (ACSAC 2019) and Xia et al. (CVPR 2025).

    Args:
        feature_shape: of one row.
        image_shape: (C, H, W).
        width: channels.
        blocks: residual blocks before the upsampling.

    Attributes:
        mean_image: (C, H, W) mean of the public images: what is drawn by who saw nothing.
    """

    mean_image: Tensor

    def __init__(self, feature_shape: Shape, image_shape: Shape, *, width: int, blocks: int) -> None:
        super().__init__()
        channels, height, breadth = image_shape
        as_map = AsMap(feature_shape)
        inputs, rows, columns = as_map.shape
        entry: list[nn.Module] = [as_map, nn.BatchNorm2d(inputs)]
        if max(rows, columns) == 1:
            octaves = max(0, math.floor(math.log2(min(height, breadth) / 4)))
            rows, columns = math.ceil(height / 2**octaves), math.ceil(breadth / 2**octaves)
            entry += [nn.Flatten(), nn.Linear(inputs, width * rows * columns), nn.Unflatten(1, (width, rows, columns))]
        else:
            octaves = max(0, math.floor(math.log2(max(1, min(height / rows, breadth / columns))) + 1e-6))
            entry += [nn.Conv2d(inputs, width, 3, padding=1, bias=False)]
        layers = [*entry, nn.BatchNorm2d(width), nn.ReLU(), *(_Residual(width) for _ in range(blocks))]
        for _ in range(octaves):
            layers += [
                nn.ConvTranspose2d(width, width, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
            ]  # fmt: skip
        self.layers = nn.Sequential(*layers)
        self.exit = nn.Conv2d(width, channels, 3, padding=1)
        self.size = (height, breadth)
        self.register_buffer("mean_image", torch.full(image_shape, 0.5))

    def forward(self, features: Tensor) -> Tensor:
        """(B, *feature_shape) to (B, C, H, W) in [0, 1]."""
        x = self.layers(features)
        if tuple(x.shape[-2:]) != self.size:
            x = interpolate(x, self.size, mode="bilinear", align_corners=False)
        return torch.sigmoid(self.exit(x))


class Shadow(nn.Module):
    """Images to features of a wanted shape: what an attacker without the device's part puts in its place.

    Convolutions that halve the side until the wanted map is reached, a residual block, a last layer without bounds.

    Attributes:
        mean_image: (C, H, W) mean of the public images.
    """

    mean_image: Tensor

    def __init__(self, image_shape: Shape, feature_shape: Shape, *, width: int) -> None:
        super().__init__()
        channels, height, _ = image_shape
        self.as_map = AsMap(feature_shape)
        outputs, rows, columns = self.as_map.shape
        self.size = (rows, columns) if max(rows, columns) > 1 else (4, 4)
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1, bias=False)]
        for _ in range(max(0, round(math.log2(height / self.size[0])))):
            layers += [nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False)]
        self.layers = nn.Sequential(*layers, nn.BatchNorm2d(width), nn.ReLU(), _Residual(width))
        # one filter as large as the map where the features have no place
        self.exit = nn.Conv2d(width, outputs, 1 if max(rows, columns) > 1 else self.size)
        self.register_buffer("mean_image", torch.full(image_shape, 0.5))

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] to (B, *feature_shape)."""
        x: Tensor = self.layers((images - 0.5) * 4)
        if tuple(x.shape[-2:]) != self.size:
            x = interpolate(x, self.size, mode="bilinear", align_corners=False)
        return self.as_map.back(self.exit(x))
