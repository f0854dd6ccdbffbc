"""Inline SVG charts, drawn on the server, without scripts.

Horizontal positions are percentages and text is in pixels, so one drawing reads at 400 and at 1200 pixels. Colour comes
from the page's style sheet by class name; every kind of mark also has its own shape. The caller puts the same numbers
in a table beside each chart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Literal

MarkKind = Literal["main", "ring", "diamond", "tick", "cap"]


@dataclass(frozen=True, slots=True)
class Mark:
    """A value on a row: `main` (dot with whisker), `ring`, `diamond`, `tick` (lower limit), `cap` (upper limit)."""

    kind: MarkKind
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A labelled row of a chart; `text` stands at its right end."""

    label: str
    text: str
    marks: tuple[Mark, ...] = ()
    bars: tuple[float, ...] = ()
    whiskers: tuple[tuple[float, float] | None, ...] = ()
    """Interval of each bar."""
    muted: bool = False


@dataclass(frozen=True, slots=True)
class Zone:
    """A named stretch of the axis."""

    label: str
    low: float
    high: float
    style: str


@dataclass(frozen=True, slots=True)
class Axis:
    """What the horizontal axis shows."""

    low: float
    high: float
    ticks: tuple[float, ...]
    unit: Literal["frac", "ratio"] = "ratio"
    zones: tuple[Zone, ...] = field(default=())

    def at(self, value: float) -> str:
        """Position of `value`, clipped to the axis, as a percentage of the width."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return f"{1.5 + 97 * share:.2f}%"

    def length(self, low: float, high: float) -> str:
        """Length of a stretch as a percentage of the width."""
        return f"{float(self.at(high)[:-1]) - float(self.at(low)[:-1]):.2f}%"

    def name(self, value: float) -> str:
        """A tick's text."""
        return f"{100 * value:.0f}%" if self.unit == "frac" else f"{value:.1f}"


_ROW, _HEAD, _FOOT = 48, 22, 24
_LINE, _LEAST = 42, 12
"""Characters that stand side by side at 400 pixels, and how many a label has at least; the table has all of it."""


def mark_chart(rows: Sequence[Row], axis: Axis, *, title: str, description: str) -> str:
    """One row per item, with its marks on a common axis."""
    height = _HEAD + _ROW * len(rows) + _FOOT
    parts = _frame(axis, _HEAD, height - _FOOT)
    for index, row in enumerate(rows):
        top = _HEAD + _ROW * index
        parts += _labels(row, top + 18)
        parts.append(_line(axis, axis.low, axis.high, top + 33, "track"))
        parts += [_draw(mark, axis, top + 33, row.muted) for mark in row.marks]
    return _svg(parts, height, title, description)


def bar_chart(rows: Sequence[Row], axis: Axis, *, title: str, description: str) -> str:
    """One row per item, with one bar per series (shares) and optional marks across them."""
    n_bars = max((len(row.bars) for row in rows), default=1)
    pitch = 24 + 11 * n_bars + 4
    height = _HEAD + pitch * len(rows) + _FOOT
    parts = _frame(axis, _HEAD, height - _FOOT)
    for index, row in enumerate(rows):
        top = _HEAD + pitch * index
        parts += _labels(row, top + 14)
        for series, value in enumerate(row.bars):
            width = axis.length(axis.low, value)
            place = f'x="{axis.at(axis.low)}" y="{top + 21 + 11 * series}" width="{width}" height="9"'
            parts.append(f'<rect class="bar series-{series}" {place} rx="1"/>')
        for series, bounds in enumerate(row.whiskers):
            if bounds is not None:
                parts.append(_line(axis, *bounds, top + 25.5 + 11 * series, "whisker"))
        for mark in row.marks:
            at = axis.at(mark.value)
            parts.append(f'<line class="tick" x1="{at}" x2="{at}" y1="{top + 19}" y2="{top + pitch - 4}"/>')
    return _svg(parts, height, title, description)


@dataclass(frozen=True, slots=True)
class Point:
    """A point with an interval along both axes, each (value, low, high)."""

    label: str
    x: tuple[float, float, float]
    y: tuple[float, float, float]
    style: str = ""


def scatter_chart(
    points: Sequence[Point], x_axis: Axis, y_axis: Axis, *, x_name: str, y_name: str, title: str, description: str
) -> str:
    """Points with whiskers along both axes; the vertical axis grows upwards over 300 pixels."""
    top, bottom = 30, 330

    def level(value: float) -> float:
        clipped = min(max(value, y_axis.low), y_axis.high)
        return bottom - (bottom - top) * (clipped - y_axis.low) / (y_axis.high - y_axis.low)

    parts = [f'<text class="axis-name" x="1.5%" y="14">{escape(y_name)} (up) against {escape(x_name)} (right)</text>']
    for tick in y_axis.ticks:
        y = level(tick)
        parts.append(f'<line class="grid" x1="1.5%" x2="98.5%" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick-text" x="1.5%" y="{y - 4:.1f}">{y_axis.name(tick)}</text>')
    parts += _ticks(x_axis, top, bottom)
    for point in points:
        x, y = x_axis.at(point.x[0]), level(point.y[0])
        parts.append(_line(x_axis, point.x[1], point.x[2], y, f"whisker {point.style}"))
        ends = f'y1="{level(point.y[1]):.1f}" y2="{level(point.y[2]):.1f}"'
        parts.append(f'<line class="whisker {point.style}" x1="{x}" x2="{x}" {ends}/>')
        parts.append(f'<circle class="dot {point.style}" cx="{x}" cy="{y:.1f}" r="6"/>')
        right = float(x[:-1]) > 70
        offset = f'dx="{-10 if right else 10}" text-anchor="{"end" if right else "start"}"'
        parts.append(f'<text class="point-text" x="{x}" y="{y - 10:.1f}" {offset}>{escape(point.label)}</text>')
    return _svg(parts, bottom + _FOOT, title, description)


def _svg(parts: Sequence[str], height: int, title: str, description: str) -> str:
    head = f'<svg class="chart" role="img" width="100%" height="{height}" xmlns="http://www.w3.org/2000/svg">'
    return f"{head}<title>{escape(title)}</title><desc>{escape(description)}</desc>{''.join(parts)}</svg>"


def _frame(axis: Axis, top: int, bottom: int) -> list[str]:
    parts = []
    for zone in axis.zones:
        low, high = max(zone.low, axis.low), min(zone.high, axis.high)
        if high <= low:
            continue
        place = f'x="{axis.at(low)}" width="{axis.length(low, high)}" y="{top}" height="{bottom - top}"'
        parts.append(f'<rect class="zone zone-{zone.style}" {place}/>')
        parts.append(
            f'<text class="zone-text" x="{axis.at((low + high) / 2)}" y="{top - 7}">{escape(zone.label)}</text>'
        )
    return parts + _ticks(axis, top, bottom)


def _ticks(axis: Axis, top: int, bottom: int) -> list[str]:
    parts = []
    for tick in axis.ticks:
        at = axis.at(tick)
        parts.append(f'<line class="grid" x1="{at}" x2="{at}" y1="{top}" y2="{bottom}"/>')
        share = float(at[:-1])
        anchor = "start" if share < 4 else "end" if share > 96 else "middle"
        text = f'text-anchor="{anchor}">{axis.name(tick)}</text>'
        parts.append(f'<text class="tick-text" x="{at}" y="{bottom + 15}" {text}')
    return parts


def _labels(row: Row, y: int) -> list[str]:
    muted = " muted" if row.muted else ""
    shown = _short(row.label, max(_LEAST, _LINE - len(row.text)))
    return [
        f'<text class="row-label{muted}" x="1.5%" y="{y}">{escape(shown)}</text>',
        f'<text class="row-value{muted}" x="98.5%" y="{y}" text-anchor="end">{escape(row.text)}</text>',
    ]


def _short(text: str, most: int) -> str:
    """The beginning and the end of a text that is too long."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[len(text) - (most - most // 2 - 1) :]}"


def _line(axis: Axis, low: float, high: float, y: float, style: str) -> str:
    return f'<line class="{style}" x1="{axis.at(low)}" x2="{axis.at(high)}" y1="{y:g}" y2="{y:g}"/>'


def _draw(mark: Mark, axis: Axis, y: int, muted: bool) -> str:
    at = axis.at(mark.value)
    style = f"{mark.kind}{' muted' if muted else ''}"
    if mark.kind in ("tick", "cap"):
        return f'<line class="{style}" x1="{at}" x2="{at}" y1="{y - 9}" y2="{y + 9}"/>'
    whisker = ""
    if mark.low is not None and mark.high is not None:
        whisker = _line(axis, mark.low, mark.high, y, f"whisker {style}")
        for end in (mark.low, mark.high):
            whisker += (
                f'<line class="whisker {style}" x1="{axis.at(end)}" x2="{axis.at(end)}" y1="{y - 5}" y2="{y + 5}"/>'
            )
    if mark.kind == "diamond":
        corners = f'<rect class="{style}" x="-5" y="-5" width="10" height="10" transform="rotate(45)"/>'
        return f'{whisker}<svg x="{at}" y="{y}" overflow="visible" class="pin">{corners}</svg>'
    radius = 6 if mark.kind == "main" else 5
    return f'{whisker}<circle class="{style}" cx="{at}" cy="{y}" r="{radius}"/>'
