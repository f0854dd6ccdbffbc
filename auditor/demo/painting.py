"""Painting faces: soft shapes from first-order signed distances, front to back, a whole batch at once.

All shapes live in the unit square [-1, 1] x [-1, 1], y downwards, with the face's centre near the origin. A shape is a
field d (negative inside, about the distance to the outline near it) turned into coverage by a smoothstep 1.5 pixels
wide, so images are antialiased and change smoothly with every parameter: no parameter is a switch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

PARAMETERS = (
    "skin_tone", "skin_warmth", "face_width", "face_length", "jaw", "cheeks",
    "hair_tone", "hair_red", "hair_length", "hair_volume", "hairline", "parting",
    "eye_size", "eye_spacing", "eye_height", "eye_slant", "iris",
    "brow_thickness", "brow_height", "brow_slant",
    "nose_length", "nose_width", "mouth_width", "lip_fullness", "lip_red", "mouth_height",
    "glasses", "glasses_size", "beard", "moustache", "ears",
)  # fmt: skip
"""What makes a person, each ~ N(0, 1)."""

NUISANCES = (
    "shift_x", "shift_y", "rotation", "scale", "turn", "nod",
    "light_x", "light_y", "brightness", "warmth", "smile", "mouth_open", "eyes_open", "gaze", "brow_raise",
    "back_tone", "back_warmth", "back_green", "back_slope", "cloth_r", "cloth_g", "cloth_b",
)  # fmt: skip
"""What changes from image to image, each ~ N(0, 1)."""


class _Named:
    """Columns of a (B, K) tensor by name, shaped (B, 1, 1) to broadcast over pixels."""

    def __init__(self, values: Tensor, names: tuple[str, ...]) -> None:
        self._columns = {name: values[:, index, None, None] for index, name in enumerate(names)}

    def __getattr__(self, name: str) -> Tensor:
        return self._columns[name]


class _Canvas:
    """Paints front to back: what is painted first hides what comes later.

    Attributes:
        through: (B, H, W) share of light that still comes from behind.
    """

    def __init__(self, n: int, size: int) -> None:
        self.image = torch.zeros(n, 3, size, size)
        self.through = torch.ones(n, size, size)
        self._blur = 3.0 / size

    def cover(self, distance: Tensor) -> Tensor:
        """Coverage in [0, 1] of the shape whose distance field this is."""
        t = (0.5 - distance / self._blur).clamp_(0, 1)
        return t * t * (3 - 2 * t)

    def add(self, coverage: Tensor, colour: Tensor) -> None:
        """Paint `colour` (B, 3, 1, 1) or (B, 3, H, W) behind everything painted so far."""
        weight = self.through * coverage
        self.image.addcmul_(weight[:, None], colour)
        self.through = self.through - weight


def _ellipse(x: Tensor, y: Tensor, a: Tensor | float, b: Tensor | float) -> Tensor:
    """First-order signed distance to an ellipse of half-axes a and b round the origin."""
    scale = torch.minimum(torch.as_tensor(a), torch.as_tensor(b))
    return ((x / a).square() + (y / b).square() - 1) * (0.5 * scale)


def _between(low: float, high: float, value: Tensor) -> Tensor:
    """Map a standard normal value onto (low, high) smoothly, nearly linear in the middle."""
    return low + (high - low) * torch.sigmoid(1.4 * value)


def _ramp(stops: tuple[tuple[float, float, float], ...], t: Tensor) -> Tensor:
    """(B, 3, 1, 1) colour at t in [0, 1] along evenly spaced stops."""
    table = torch.tensor(stops)
    place = (t[:, 0, 0] * (len(stops) - 1)).clamp(0, len(stops) - 1 - 1e-6)
    low = place.long()
    frac = (place - low)[:, None]
    return (table[low] * (1 - frac) + table[low + 1] * frac)[:, :, None, None]


def _rgb(r: Tensor, g: Tensor, b: Tensor) -> Tensor:
    """(B, 3, 1, 1) from three (B, 1, 1)."""
    return torch.stack([r, g, b], dim=1)


_SKIN = ((0.27, 0.17, 0.13), (0.50, 0.34, 0.26), (0.76, 0.57, 0.45), (0.91, 0.73, 0.62), (0.99, 0.87, 0.80))
_HAIR = ((0.05, 0.04, 0.05), (0.17, 0.10, 0.07), (0.38, 0.23, 0.13), (0.66, 0.48, 0.25), (0.90, 0.79, 0.55))
_IRIS = ((0.16, 0.09, 0.05), (0.38, 0.24, 0.11), (0.32, 0.42, 0.22), (0.25, 0.46, 0.62), (0.50, 0.66, 0.80))


@dataclass(frozen=True)
class _Frame:
    """Pixel coordinates in the frame of the head.

    Attributes:
        x, y: (B, H, W) on the head's outline.
        fx: (B, H, W) on the front of the face, which turns more than the outline does.
        side: (B, H, W) distance from the face's middle line; eyes, brows and ears are drawn once, mirrored.
    """

    x: Tensor
    y: Tensor
    fx: Tensor
    side: Tensor


def _frame(n: _Named, size: int) -> _Frame:
    axis = (torch.arange(size) + 0.5) * (2 / size) - 1
    angle = 0.07 * n.rotation
    cos, sin, zoom = torch.cos(angle), torch.sin(angle), 0.90 + 0.035 * n.scale
    px = (axis[None, None, :] - 0.05 * n.shift_x) * zoom
    py = (axis[None, :, None] - 0.04 * n.shift_y - 0.03) * zoom
    x, y = cos * px + sin * py, cos * py - sin * px
    fx = (x - 0.07 * n.turn) * (1 + 0.03 * n.turn.abs())
    return _Frame(x, y - 0.01 * n.nod, fx, fx.abs())


@torch.no_grad()
def paint(parameters: Tensor, nuisance: Tensor, size: int) -> Tensor:
    """One face per row.

    Args:
        parameters: (B, len(PARAMETERS)) float32, about standard normal.
        nuisance: (B, len(NUISANCES)) float32, about standard normal.
        size: side in pixels.

    Returns:
        (B, 3, size, size) float32, about in [0, 1].
    """
    p, n = _Named(parameters, PARAMETERS), _Named(nuisance, NUISANCES)
    frame, canvas = _frame(n, size), _Canvas(len(parameters), size)
    skin, hair = _skin_colour(p), _hair_colour(p)
    at = _Places(
        eye_x=_between(0.19, 0.31, p.eye_spacing),
        eye_y=_between(-0.17, 0.01, p.eye_height) + 0.02 * n.nod,
        mouth_y=_between(0.34, 0.50, p.mouth_height) + 0.02 * n.nod,
        half_width=_between(0.43, 0.65, p.face_width),
        chin=_between(0.60, 0.86, p.face_length),
    )
    face = _face(p, frame, at)
    inside = canvas.cover(face)
    _paint_glasses(p, frame, canvas, at)
    _paint_front_hair(p, frame, canvas, at, hair)
    _paint_brows(p, n, frame, canvas, at, hair)
    _paint_eyes(p, n, frame, canvas, at, skin)
    _paint_nose(p, frame, canvas, at, skin)
    _paint_mouth(p, n, frame, canvas, at, skin)
    _paint_beard(p, frame, canvas, at, canvas.cover(face - 0.035), hair)
    canvas.add(inside * ((face + 0.16) * 4).clamp(0, 0.6), skin * 0.72)
    canvas.add(inside, skin)
    _paint_head(p, frame, canvas, at, skin, hair)
    return _light(n, frame, canvas)


@dataclass(frozen=True)
class _Places:
    """Where the parts of a face are; (B, 1, 1) each."""

    eye_x: Tensor
    eye_y: Tensor
    mouth_y: Tensor
    half_width: Tensor
    chin: Tensor


def _skin_colour(p: _Named) -> Tensor:
    tone = _ramp(_SKIN, torch.sigmoid(1.2 * p.skin_tone))
    warmth = 0.035 * p.skin_warmth
    return (tone + _rgb(warmth, 0 * warmth, -warmth)).clamp(0.04, 1)


def _hair_colour(p: _Named) -> Tensor:
    tone = _ramp(_HAIR, torch.sigmoid(1.3 * p.hair_tone))
    red = torch.sigmoid(2.5 * (p.hair_red - 0.9))[..., None]
    ginger = torch.tensor([1.35, 0.85, 0.55])[:, None, None]
    return (tone * (1 + red * (ginger - 1)) + red * torch.tensor([0.14, 0.03, 0.0])[:, None, None]).clamp(0, 1)


def _face(p: _Named, frame: _Frame, at: _Places) -> Tensor:
    """Distance to the outline: an oval that tapers towards a more or less square chin."""
    top = -0.68
    middle, half = (top + at.chin) / 2, (at.chin - top) / 2
    down = ((frame.y - middle) / half).clamp(-1.6, 1.6)
    taper = _between(0.02, 0.34, p.cheeks) * down.clamp(min=0)
    square = _between(0.0, 1.2, p.jaw)
    up = down.square()
    flat = up * (1 + square * up * (down > 0)) / (1 + square * (down > 0))
    return ((frame.x / (at.half_width * (1 - taper))).square() + flat - 1) * (0.5 * at.half_width)


def _paint_glasses(p: _Named, frame: _Frame, canvas: _Canvas, at: _Places) -> None:
    worn = torch.sigmoid(6 * (p.glasses - 0.55))
    radius = _between(0.13, 0.19, p.glasses_size)
    x, y = frame.side - at.eye_x, frame.y - at.eye_y - 0.02
    lens = _ellipse(x, y, radius, radius * 0.82)
    bridge = torch.maximum(y.abs() - 0.018, frame.side - at.eye_x + radius * 0.9)
    temple = torch.maximum((y + 0.02).abs() - 0.018, torch.maximum(-x + radius * 0.9, frame.side - at.half_width))
    rim = torch.minimum(torch.minimum(lens.abs() - 0.022, bridge), temple)
    canvas.add(worn * canvas.cover(rim), torch.tensor([0.10, 0.09, 0.11])[:, None, None])
    canvas.add(0.16 * worn * canvas.cover(lens), torch.tensor([0.85, 0.92, 1.0])[:, None, None])


def _paint_brows(p: _Named, n: _Named, frame: _Frame, canvas: _Canvas, at: _Places, hair: Tensor) -> None:
    x = frame.side - at.eye_x - 0.01
    gap = _between(0.12, 0.22, p.brow_height) + 0.018 * n.brow_raise
    arch = _between(-0.35, 0.35, p.brow_slant) * x - 1.2 * x.square()
    y = frame.y - at.eye_y + gap + arch
    canvas.add(canvas.cover(_ellipse(x, y, 0.15, _between(0.018, 0.062, p.brow_thickness))), hair * 0.62)


def _paint_eyes(p: _Named, n: _Named, frame: _Frame, canvas: _Canvas, at: _Places, skin: Tensor) -> None:
    half = _between(0.085, 0.15, p.eye_size)
    x = frame.side - at.eye_x
    y = frame.y - at.eye_y + _between(-0.3, 0.3, p.eye_slant) * x
    tall = half * (0.52 + 0.10 * n.eyes_open).clamp(0.25, 0.85)
    white = canvas.cover(_ellipse(x, y, half, tall))
    gaze = frame.fx - torch.where(frame.fx < 0, -at.eye_x, at.eye_x) - 0.018 * n.gaze
    iris = _ellipse(gaze, y + 0.008, half * 0.60, half * 0.60)
    canvas.add(white * canvas.cover(iris + half * 0.26), torch.tensor([0.03, 0.03, 0.04])[:, None, None])
    canvas.add(white * canvas.cover(iris), _ramp(_IRIS, torch.sigmoid(1.6 * p.iris)))
    canvas.add(white, torch.tensor([0.95, 0.94, 0.92])[:, None, None])
    canvas.add(canvas.cover(_ellipse(x, y + 0.012, half + 0.025, tall + 0.028)), skin * 0.34)


def _paint_front_hair(p: _Named, frame: _Frame, canvas: _Canvas, at: _Places, hair: Tensor) -> None:
    line = _between(-0.66, -0.30, p.hairline) + 1.1 * frame.x.square() + 0.30 * p.parting * frame.x
    cap = torch.maximum(_cap(p, frame, at), (frame.y - line) * 0.8)
    canvas.add(canvas.cover(cap), hair)


def _cap(p: _Named, frame: _Frame, at: _Places) -> Tensor:
    """Distance to the outline of the hair on top of the head."""
    volume = _between(0.02, 0.17, p.hair_volume)
    return _ellipse(frame.x, frame.y + 0.10, at.half_width + volume, 0.60 + volume)


def _paint_nose(p: _Named, frame: _Frame, canvas: _Canvas, at: _Places, skin: Tensor) -> None:
    width = _between(0.06, 0.145, p.nose_width)
    tip = at.eye_y + _between(0.22, 0.36, p.nose_length)
    y = frame.y - tip
    canvas.add(canvas.cover(_ellipse(frame.side - width * 0.55, y - 0.018, 0.032, 0.022)), skin * 0.36)
    canvas.add(0.45 * canvas.cover(_ellipse(frame.fx, y + 0.12, width * 0.34, 0.16)), (skin * 1.22).clamp(max=1))
    canvas.add(0.75 * canvas.cover(_ellipse(frame.fx, y, width, 0.055)), skin * 0.76)
    canvas.add(0.4 * canvas.cover(_ellipse(frame.fx, y + 0.14, width * 0.75, 0.2)), skin * 0.78)


def _paint_mouth(p: _Named, n: _Named, frame: _Frame, canvas: _Canvas, at: _Places, skin: Tensor) -> None:
    width = _between(0.13, 0.27, p.mouth_width) * (1 + 0.05 * n.smile)
    along = (frame.fx / width).square().clamp(max=4)
    y = frame.y - at.mouth_y + 0.03 * (n.smile + 0.7) * (along - 0.4)
    lips = y.abs() - _between(0.03, 0.085, p.lip_fullness) * (1 - along)
    opening = (y + 0.004).abs() - (0.016 + 0.02 * n.mouth_open.clamp(min=0)) * (1.05 - along)
    canvas.add(canvas.cover(opening), torch.tensor([0.22, 0.05, 0.06])[:, None, None])
    red = _between(0.15, 0.85, p.lip_red)[..., None]
    canvas.add(canvas.cover(lips), skin * (1 - red) * 0.80 + red * torch.tensor([0.74, 0.20, 0.24])[:, None, None])


def _paint_beard(p: _Named, frame: _Frame, canvas: _Canvas, at: _Places, jaw: Tensor, hair: Tensor) -> None:
    y = frame.y - at.mouth_y
    moustache = torch.sigmoid(5 * (p.moustache - 0.75))
    across = (frame.fx / 0.22).square().clamp(max=4)
    whiskers = (y + 0.085 - 0.04 * across).abs() - 0.048 * (1 - 0.9 * across)
    canvas.add(0.9 * moustache * canvas.cover(whiskers), hair * 0.72)
    beard = torch.sigmoid(5 * (p.beard - 0.75))
    grown = ((y + 0.02 + 1.5 * frame.side.square()) * 7).clamp(0, 1)
    canvas.add(0.88 * beard * jaw * grown, hair * 0.72)


def _paint_head(p: _Named, frame: _Frame, canvas: _Canvas, at: _Places, skin: Tensor, hair: Tensor) -> None:
    """What stands behind the face: ears, neck, hair."""
    width = frame.x.abs()
    long = torch.sigmoid(2.0 * p.hair_length)
    ear = _between(0.05, 0.12, p.ears)
    ears = canvas.cover(_ellipse(width - at.half_width, frame.y - at.eye_y - 0.12, ear, ear * 1.55))
    canvas.add(ears * (1 - 0.85 * long), skin * 0.86)
    neck = torch.maximum(width - 0.42 * at.half_width - 0.06, frame.y - 1.06 + 0.5 * width)
    canvas.add(canvas.cover(torch.maximum(neck, 0.2 - frame.y)), skin * 0.66)
    reach = _between(0.02, 0.15, p.hair_volume)
    ends = -0.08 + 0.95 * long
    curtain = torch.maximum(width - at.half_width - reach * 0.8, torch.maximum(frame.y - ends, -0.1 - frame.y))
    canvas.add(canvas.cover(torch.minimum(_cap(p, frame, at), curtain)), hair * 0.72)


def _light(n: _Named, frame: _Frame, canvas: _Canvas) -> Tensor:
    """Clothes, background, and the light on everything in front of it."""
    shoulders = canvas.cover(_ellipse(frame.x, frame.y - 1.30, 1.0, 0.46))
    cloth = torch.sigmoid(_rgb(n.cloth_r, n.cloth_g, n.cloth_b) * 0.9 - 0.4)
    canvas.add(shoulders, cloth)
    shade = 1 + 0.10 * n.brightness + 0.16 * (n.light_x * frame.x + (n.light_y - 0.6) * frame.y)
    tint = 1 + 0.05 * _rgb(n.warmth, 0 * n.warmth, -n.warmth)
    grey = 0.20 + 0.62 * torch.sigmoid(1.2 * n.back_tone)
    back = grey[:, None] + 0.07 * _rgb(n.back_warmth + n.back_green, n.back_green, -n.back_warmth)
    back = back * (1 + 0.12 * n.back_slope * frame.y)[:, None]
    return canvas.image * shade[:, None] * tint + canvas.through[:, None] * back
