"""Charts as plain SVG text: no script, no font, no address outside the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True, slots=True)
class Series:
    """A line through `points` (x, y); `style` is a CSS class of the page."""

    name: str
    points: Sequence[tuple[float, float]]
    style: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A vertical line at `x` with a word above it and a sentence on hover."""

    x: float
    word: str
    sentence: str
    style: str


@dataclass(frozen=True, slots=True)
class Part:
    """A share of a whole, such as seconds of one kind."""

    name: str
    value: float
    style: str


_WIDTH, _HEIGHT = 860, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 34, 40


def line_chart(series: Sequence[Series], marks: Sequence[Mark], *, x_title: str, y_title: str) -> str:
    """An SVG of the series over one pair of axes. Points that are not finite are left out of the line."""
    finite = [(x, y) for each in series for x, y in each.points if math.isfinite(x) and math.isfinite(y)]
    if not finite:
        return '<p class="empty">No points were measured.</p>'
    places = [*(x for x, _ in finite), *(mark.x for mark in marks)]
    x_low, x_high = _widened(min(places), max(places))
    y_low, y_high = _widened(min(y for _, y in finite), max(y for _, y in finite))

    def to_x(value: float) -> float:
        return _LEFT + (value - x_low) / (x_high - x_low) * (_WIDTH - _LEFT - _RIGHT)

    def to_y(value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - y_low) / (y_high - y_low) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(y_title)} by {escape(x_title)}">'
    ]
    for value in ticks(y_low, y_high):
        y = to_y(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for value in ticks(x_low, x_high):
        label = f'<text class="tick" x="{to_x(value):.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">'
        parts.append(f"{label}{value:g}</text>")
    parts.append(
        f'<text class="title" x="{(_LEFT + _WIDTH - _RIGHT) / 2:.0f}" y="{_HEIGHT - 4}" text-anchor="middle">'
        f"{escape(x_title)}</text>"
        f'<text class="title" x="{_LEFT - 40}" y="16">{escape(y_title)}</text>'
    )
    for each in series:
        for stretch in _stretches(each.points):
            path = " ".join(f"{to_x(x):.1f},{to_y(y):.1f}" for x, y in stretch)
            parts.append(
                f'<polyline class="{escape(each.style)}" points="{path}">'
                f"<title>{escape(each.name)}</title></polyline>"
            )
    for index, mark in enumerate(marks):
        x = to_x(mark.x)
        parts.append(
            f'<g class="mark {escape(mark.style)}"><title>{escape(mark.sentence)}</title>'
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>'
            f'<text x="{x + 5:.1f}" y="{_TOP + 12 + 15 * (index % 3)}">{escape(mark.word)}</text></g>'
        )
    return "".join([*parts, "</svg>"])


def share_bar(parts: Sequence[Part], *, unit: str) -> str:
    """A bar cut into shares of the total, with a legend that holds every value, however small."""
    total = sum(part.value for part in parts)
    if total <= 0:
        return '<p class="empty">Nothing was measured.</p>'
    bars, at = [], 0.0
    for part in parts:
        width = part.value / total * 1000
        bars.append(
            f'<rect class="{escape(part.style)}" x="{at:.2f}" y="0" width="{width:.2f}" height="30">'
            f"<title>{escape(part.name)}: {part.value:.1f} {escape(unit)}</title></rect>"
        )
        at += width
    legend = "".join(
        f'<li><span class="key {escape(part.style)}"></span>{escape(part.name)}'
        f"<b>{part.value:.1f} {escape(unit)}</b><i>{part.value / total:.1%}</i></li>"
        for part in parts
    )
    return (
        '<svg class="share" viewBox="0 0 1000 30" preserveAspectRatio="none" role="img">'
        f"{''.join(bars)}</svg>"
        f'<ul class="legend">{legend}</ul>'
    )


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round values between `low` and `high`, about so many, in steps of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _widened(low: float, high: float) -> tuple[float, float]:
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _stretches(points: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """The finite runs of `points`: a missing value is a gap, never a zero."""
    stretches: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if math.isfinite(x) and math.isfinite(y):
            stretches[-1].append((x, y))
        elif stretches[-1]:
            stretches.append([])
    return [each for each in stretches if each]
