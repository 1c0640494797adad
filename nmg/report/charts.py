"""Charts as inline SVG, drawn here so that a report is one file that needs nothing to be read.

Colours are CSS classes of the page (``s0``, ``s1``, ...), so charts follow its light or dark look.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

from nmg.comparison import ComparisonTable

NAME_CHARACTER = 8
"""Room for a letter of a masking's name, in bold."""
WIDTH, LEFT, RIGHT, TOP, BOTTOM = 760, 64, 16, 14, 44
HEIGHT = 280
"""Of a chart of lines, in pixels."""
SERIES = 6
"""Colours the page knows."""


def line_chart(
    series: Mapping[str, Sequence[tuple[float, float]]],
    x_label: str,
    y_label: str,
    *,
    marks: Sequence[tuple[float, str]] = (),
) -> str:
    """Lines over a shared x axis, with a legend; zero is always in sight.

    Args:
        series: name -> (x, y) points in the order of x; points that are not finite are left out.
        x_label: under the axis.
        y_label: above the axis.
        marks: x positions to mark with a vertical line and a word.
    """
    series = {
        name: [(x, y) for x, y in points if math.isfinite(y)] for name, points in series.items()
    }
    flat = [point for points in series.values() for point in points]
    if not flat:
        return ""
    x_ticks = ticks(min(x for x, _ in flat), max(x for x, _ in flat), 8)
    y_ticks = ticks(min([0.0, *(y for _, y in flat)]), max([0.0, *(y for _, y in flat)]), 5)
    x_of = _scale(x_ticks, LEFT, WIDTH - RIGHT)
    y_of = _scale(y_ticks, HEIGHT - BOTTOM, TOP + 18)
    if all(float(x).is_integer() for x, _ in flat):  # there is no half an episode
        x_ticks = [x for x in x_ticks if x.is_integer()]
    parts = [_grid(x_ticks, y_ticks, x_of, y_of, HEIGHT), _axis_labels(x_label, y_label, HEIGHT)]
    parts.append(_line("zero", LEFT, WIDTH - RIGHT, y_of(0.0), y_of(0.0)))
    for x, word in marks:
        near_end = x_of(x) > WIDTH - RIGHT - 80
        at, anchor = (x_of(x) - 4, "end") if near_end else (x_of(x) + 4, "start")
        parts.append(_line("mark", x_of(x), x_of(x), TOP + 18, HEIGHT - BOTTOM))
        parts.append(
            f'<text class="tick {anchor}" x="{at:.1f}" y="{TOP + 28}">{escape(word)}</text>'
        )
    for number, points in enumerate(series.values()):
        colour = f"s{number % SERIES}"
        path = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in points)
        parts.append(f'<polyline class="line {colour}" points="{path}"/>')
        parts += [
            f'<circle class="dot {colour}" cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="2.5"/>'
            for x, y in (points if len(points) <= 60 else points[-1:])
        ]
    return _svg(parts + _legend(list(series)), HEIGHT)


def interval_chart(table: ComparisonTable) -> str:
    """Paired differences to the reference with intervals, a line a masking; dots are the pairs."""
    rows = [row for row in table.rows if row.versus is not None]
    if not rows:
        return ""
    reference = [pair[table.headline] for pair in table.scores[table.reference]]
    differences = {
        row.name: [
            pair[table.headline] - other
            for pair, other in zip(table.scores[row.name], reference, strict=True)
        ]
        for row in rows
    }
    spread = [value for values in differences.values() for value in values]
    for row in rows:
        assert row.versus is not None
        spread += [row.versus.low, row.versus.high]
    spread = [value for value in spread if math.isfinite(value)]
    x_ticks = ticks(min([0.0, *spread]), max([0.0, *spread]), 7)
    step, left = 34, max(150, NAME_CHARACTER * max(len(row.name) for row in rows) + 20)
    height = TOP + step * len(rows) + BOTTOM
    x_of = _scale(x_ticks, left, WIDTH - RIGHT)
    parts = [_grid(x_ticks, [], x_of, x_of, height)]
    parts.append(_line("zero", x_of(0.0), x_of(0.0), TOP, height - BOTTOM))
    for number, row in enumerate(rows):
        assert row.versus is not None
        y = TOP + step * (number + 0.5)
        style = {"better": "good", "worse": "bad"}.get(row.versus.verdict, "flat")
        parts.append(
            f'<text class="name" x="{left - 12}" y="{y + 4:.1f}">{escape(row.name)}</text>'
        )
        parts += [
            f'<circle class="pair" cx="{x_of(value):.1f}" cy="{y + 8:.1f}" r="2"/>'
            for value in differences[row.name]
            if math.isfinite(value)
        ]
        if math.isfinite(row.versus.low):
            parts.append(
                f'<line class="interval {style}" x1="{x_of(row.versus.low):.1f}" '
                f'x2="{x_of(row.versus.high):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            )
        if math.isfinite(row.versus.difference):
            x = x_of(row.versus.difference)
            parts.append(f'<circle class="mean {style}" cx="{x:.1f}" cy="{y:.1f}" r="5"/>')
    better = "right is better" if table.higher_is_better else "left is better"
    label = f"difference in {table.headline} to {table.reference}, per pair ({better})"
    parts.append(_axis_labels(label, "", height))
    return _svg(parts, height)


def ticks(low: float, high: float, wanted: int) -> list[float]:
    """Round values that span ``low`` to ``high``, about ``wanted`` of them."""
    if high - low < 1e-12:
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _scale(values: Sequence[float], start: float, end: float) -> Callable[[float], float]:
    low, high = values[0], values[-1]
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _grid(
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    x_of: Callable[[float], float],
    y_of: Callable[[float], float],
    height: int,
) -> str:
    parts = []
    for value in x_ticks:
        x = x_of(value)
        parts.append(_line("grid", x, x, TOP + (18 if y_ticks else 0), height - BOTTOM))
        parts.append(
            f'<text class="tick mid" x="{x:.1f}" y="{height - BOTTOM + 16}">{value:g}</text>'
        )
    for value in y_ticks:
        y = y_of(value)
        parts.append(_line("grid", LEFT, WIDTH - RIGHT, y, y))
        parts.append(f'<text class="tick end" x="{LEFT - 8}" y="{y + 4:.1f}">{value:g}</text>')
    return "".join(parts)


def _line(style: str, x1: float, x2: float, y1: float, y2: float) -> str:
    return f'<line class="{style}" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"/>'


def _axis_labels(x_label: str, y_label: str, height: int) -> str:
    return (
        f'<text class="label mid" x="{WIDTH / 2}" y="{height - 8}">{escape(x_label)}</text>'
        f'<text class="label" x="8" y="{TOP + 4}">{escape(y_label)}</text>'
    )


def _legend(names: Sequence[str]) -> list[str]:
    parts, x = [], float(WIDTH - RIGHT)
    for number, name in reversed(list(enumerate(names))):
        x -= 7.2 * len(name) + 34
        parts.append(
            f'<line class="line s{number % SERIES}" x1="{x:.1f}" x2="{x + 18:.1f}" y1="{TOP}" '
            f'y2="{TOP}"/><text class="tick" x="{x + 23:.1f}" y="{TOP + 4}">{escape(name)}</text>'
        )
    return parts


def _svg(parts: Sequence[str], height: int) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img">{"".join(parts)}</svg>'
