"""What the reports of the benchmarks write alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median


def spread(values: Sequence[float], form: str) -> str:
    """Median (lowest to highest)."""
    if not values:
        return ""
    middle, low, high = (form.format(x) for x in (median(values), min(values), max(values)))
    return middle if low == high else f"{middle} ({low} to {high})"


def table(rows: Sequence[Iterable[str]]) -> list[str]:
    """A Markdown table, line by line; the first row is its head."""
    head, *rest = [list(row) for row in rows]
    marks = ["---", *("---:" for _ in head[1:])]
    return [f"| {' | '.join(row)} |" for row in (head, marks, *rest)]
