"""The table of a comparison: every masking, every metric, the paired difference, a verdict.

Where the headline counts right answers, the likelihood gets a verdict of its own: it has no ties,
tells masks apart with fewer seeds, and is what the default agent learns from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from nmg.run_folders import finite
from nmg.statistics import Comparison, compare

RANDOM = "random"
"""The masking that all others are compared with, unless another is named."""
AGAIN = "random again"
"""Random masking with other draws."""
LIKELIHOOD = "nll"


@dataclass(frozen=True)
class Row:
    """One masking.

    Attributes:
        name: as the user knows it.
        means: of every metric over the pairs.
        deviations: standard deviation of every metric over the pairs; nan for a single pair.
        versus: paired difference of the headline metric to the reference; ``None`` for itself.
    """

    name: str
    means: Mapping[str, float]
    deviations: Mapping[str, float]
    versus: Comparison | None


@dataclass(frozen=True)
class ComparisonTable:
    """Maskings compared over the same pairs (seeds or episodes).

    Attributes:
        headline: metric that the verdict is about.
        metrics: all metrics, the headline first.
        higher_is_better: direction of the headline.
        pairs: how many, and of what: ``(5, "seeds")``.
        rows: one per masking, in the order given.
        scores: masking -> one dict of metrics per pair.
        reference: the masking that all others are compared with.
    """

    headline: str
    metrics: tuple[str, ...]
    higher_is_better: bool
    pairs: tuple[int, str]
    rows: tuple[Row, ...]
    scores: Mapping[str, Sequence[Mapping[str, float]]] = field(repr=False)
    reference: str = RANDOM


def tabulate(
    scores: Mapping[str, Sequence[Mapping[str, float]]],
    *,
    headline: str,
    higher_is_better: bool,
    unit: str = "seeds",
    reference: str = RANDOM,
) -> ComparisonTable:
    """Compare every masking with the reference on the headline metric.

    Args:
        scores: masking -> one dict of metrics per pair; pairs share their index.
        headline: a metric of all of them.
        higher_is_better: its direction.
        unit: what a pair is.
        reference: the masking that all others are compared with.

    Raises:
        ValueError: if the reference is missing or the maskings have different numbers of pairs.
    """
    if reference not in scores:
        raise ValueError(f"A comparison needs scores of `{reference}` masking to compare with.")
    against = [pair[headline] for pair in scores[reference]]
    rows = []
    for name, pairs in scores.items():
        values = [pair[headline] for pair in pairs]
        versus = (
            None
            if name == reference
            else compare(values, against, higher_is_better=higher_is_better)
        )
        columns = {metric: np.array([pair[metric] for pair in pairs]) for metric in pairs[0]}
        rows.append(
            Row(
                name,
                {metric: float(column.mean()) for metric, column in columns.items()},
                {
                    metric: float(column.std(ddof=1)) if len(column) > 1 else math.nan
                    for metric, column in columns.items()
                },
                versus,
            )
        )
    others = [metric for metric in scores[reference][0] if metric != headline]
    return ComparisonTable(
        headline=headline,
        metrics=(headline, *others),
        higher_is_better=higher_is_better,
        pairs=(len(against), unit),
        rows=tuple(rows),
        scores=scores,
        reference=reference,
    )


def by_likelihood(table: ComparisonTable) -> ComparisonTable | None:
    """The same comparison by likelihood alone; ``None`` if that is the headline, or not known."""
    if table.headline == LIKELIHOOD or LIKELIHOOD not in table.metrics:
        return None
    scores = {
        name: [{LIKELIHOOD: pair[LIKELIHOOD]} for pair in pairs]
        for name, pairs in table.scores.items()
    }
    return tabulate(
        scores,
        headline=LIKELIHOOD,
        higher_is_better=False,
        unit=table.pairs[1],
        reference=table.reference,
    )


def cells(table: ComparisonTable) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table as text, for the terminal and the report alike."""
    labels = [metric_label(table, metric) for metric in table.metrics]
    difference = f"{table.headline} - {table.reference} [95%]"
    header = ["masking", labels[0], difference, "verdict", *labels[1:]]
    return header, [_row_cells(table, row) for row in table.rows]


def metric_label(table: ComparisonTable, metric: str) -> str:
    return metric if table.pairs[0] < 2 else f"{metric} ± sd"


def _row_cells(table: ComparisonTable, row: Row) -> list[str]:
    values = [
        number(row.means[metric], row.deviations[metric]) if metric in row.means else ""
        for metric in table.metrics
    ]
    if row.versus is None:
        return [row.name, values[0], "", "the reference", *values[1:]]
    interval = with_interval(row.versus, decimals(row.means[table.headline]))
    return [row.name, values[0], interval, row.versus.verdict, *values[1:]]


def with_interval(versus: Comparison, digits: int) -> str:
    """``+0.031 [+0.012, +0.050]``, with more digits where a bound would look like zero."""
    if math.isinf(versus.low):
        return f"{versus.difference:+.{digits}f} [one pair: no interval]"
    near = min(abs(versus.low), abs(versus.high))
    if 0 < near < 0.5 * 10**-digits:
        digits = 1 - math.floor(math.log10(near))
    return f"{versus.difference:+.{digits}f} [{versus.low:+.{digits}f}, {versus.high:+.{digits}f}]"


def decimals(mean: float) -> int:
    """Two decimals for percentages, three for likelihoods and shares."""
    return 2 if abs(mean) >= 10 else 3


def number(mean: float, deviation: float) -> str:
    """``71.25 ± 0.84``."""
    if math.isnan(mean):
        return "-"
    digits = decimals(mean)
    text = f"{mean:.{digits}f}"
    return text if math.isnan(deviation) else f"{text} ± {deviation:.{digits}f}"


def as_text(table: ComparisonTable) -> str:
    """The table for a terminal, that by likelihood, and how to read them."""
    likelihood = by_likelihood(table)
    grids = [_grid(table)] + ([] if likelihood is None else [_grid(likelihood)])
    return "\n\n".join([*grids, reading(table)])


def _grid(table: ComparisonTable) -> str:
    header, rows = cells(table)
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [header, ["-" * width for width in widths], *rows]
    ]
    return "\n".join(lines)


def reading(table: ComparisonTable) -> str:
    """How to read the table, in one paragraph."""
    pairs, unit = table.pairs
    direction = "higher" if table.higher_is_better else "lower"
    likelihood = "" if by_likelihood(table) is None else f", and lower {LIKELIHOOD}"
    if pairs == 1:
        one = unit.rstrip("s")
        return (
            f"1 {one}, the same for every masking; {direction} {table.headline}{likelihood} is "
            f"better. One {one} gives no interval and no verdict; take more {unit}."
        )
    return (
        f"{pairs} {unit}, the same for every masking; sd over {unit}. "
        f"Differences are paired, with Student's 95% interval; {direction} {table.headline}"
        f"{likelihood} is better. A verdict needs an interval that leaves zero out; each is wrong "
        "at most 5% of the time by itself, so expect one false alarm in twenty rows."
    )


def as_json(table: ComparisonTable) -> dict[str, Any]:
    """Everything in the table and behind it; infinite bounds (one pair) become null."""
    rows = []
    for row in table.rows:
        versus = asdict(row.versus) if row.versus else None
        rows.append(
            finite(
                {
                    "masking": row.name,
                    "means": dict(row.means),
                    "deviations": dict(row.deviations),
                    f"versus_{table.reference}": versus,
                    "scores": [dict(pair) for pair in table.scores[row.name]],
                }
            )
        )
    likelihood = by_likelihood(table)
    more = {} if likelihood is None else {"likelihood": as_json(likelihood)["rows"]}
    return {
        "headline": table.headline,
        "higher_is_better": table.higher_is_better,
        "pairs": table.pairs[0],
        "unit": table.pairs[1],
        "rows": rows,
        **more,
    }
