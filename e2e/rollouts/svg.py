# SPDX-License-Identifier: Apache-2.0
"""A small writer of charts: time to the right, counts upwards, in steps, as things were until they changed. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from attrs import frozen

WIDTH, HEIGHT, LEFT, TOP, BOTTOM, RIGHT = 860, 250, 56, 44, 40, 16
GAP = 24
COLOURS = ("#0969da", "#cf222e", "#1a7f37", "#8250df")

Points = Sequence[tuple[float, float]]


@frozen(kw_only=True)
class Chart:
    """*lines* by their names; *limit* is drawn across, *marks* are moments by their names."""

    title: str
    lines: Mapping[str, Points]
    limit: tuple[str, float] | None = None
    marks: Mapping[str, float]
    end: float


def document(title: str, charts: Sequence[Chart]) -> str:
    """Return an SVG of *charts*, one below the other, readable on light and on dark pages."""
    height = len(charts) * (HEIGHT + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="12">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for number, chart in enumerate(charts):
        parts += [f'<g transform="translate(0 {number * (HEIGHT + GAP)})">', *_chart(chart), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def _chart(chart: Chart) -> Iterable[str]:
    values = [value for points in chart.lines.values() for _, value in points]
    top = max([*values, chart.limit[1] if chart.limit else 0, 1]) * 1.15
    yield _text(LEFT, 18, chart.title, "#1f2328", weight="bold")
    for share in (0, 0.25, 0.5, 0.75, 1):
        y, value = _y(top * share / 1.15, top), top * share / 1.15
        yield f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#d0d7de" stroke-width="0.5"/>'
        yield _text(LEFT - 8, y + 4, _label(value), "#59636e", anchor="end")
    for word, at in chart.marks.items():
        x = _x(at, chart.end)
        yield f'<path d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#59636e" stroke-dasharray="2 3"/>'
        yield _text(x + 3, HEIGHT - BOTTOM + 14, word, "#59636e")
    yield _text(WIDTH - RIGHT, HEIGHT - 6, f"seconds, to {chart.end:.0f}", "#59636e", anchor="end")
    if chart.limit is not None:
        y = _y(chart.limit[1], top)
        yield f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#bc4c00" stroke-width="1.5" stroke-dasharray="6 3"/>'
        yield _text(WIDTH - RIGHT, y - 5, chart.limit[0], "#bc4c00", anchor="end")
    for number, (name, points) in enumerate(chart.lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        yield f'<path d="{_steps(points, chart.end, top)}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        yield _text(LEFT + 4 + number * 190, 36, f"— {name}", colour)


def _steps(points: Points, end: float, top: float) -> str:
    """Return the path of a line that keeps each value until the next point; equal values are left out."""
    path, last = [], None
    for at, value in points:
        if value != last:
            start = "M" if last is None else "H"
            x, y = _x(at, end), _y(value, top)
            path.append(f"M{x:.1f} {y:.1f}" if start == "M" else f"H{x:.1f}V{y:.1f}")
            last = value
    return "".join([*path, f"H{_x(end, end):.1f}"]) if path else ""


def _x(at: float, end: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * at / max(end, 1e-9)


def _y(value: float, top: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / top


def _text(x: float, y: float, words: str, colour: str, *, anchor: str = "start", weight: str = "normal") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}" font-weight="{weight}">'
        f"{escape(words)}</text>"
    )


def _label(value: float) -> str:
    """Return *value* in three digits, as people write numbers: 99,900, not 9.99e+04."""
    return f"{float(f'{value:.3g}'):,g}"
