"""A comparison as text: its cells, for the terminal and the report, and how to read them."""

from __future__ import annotations

import math

from nmg.comparison import (
    LIKELIHOOD,
    RANDOM,
    ComparisonTable,
    Contrast,
    Row,
    against_controls,
    by_likelihood,
    control_name,
)
from nmg.statistics import Comparison


def control_cells(table: ComparisonTable) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the policies against their null controls; no rows without any."""
    header, rows = ["policy - its control"], [[_pair(each)] for each in against_controls(table)]
    for each in filter(None, (table, by_likelihood(table))):
        header += [f"{each.headline} [95%]", "verdict"]
        digits = decimals(each.rows[0].means[each.headline])
        for row, contrast in zip(rows, against_controls(each), strict=True):
            row += [with_interval(contrast.versus, digits), contrast.versus.verdict]
    return header, rows


def control_verdicts(table: ComparisonTable) -> str:
    """A sentence on the policies against their null controls; empty without any."""
    found = [f"{_pair(each)}: {each.versus.verdict}" for each in against_controls(table)]
    return f"Against their null controls, {'; '.join(found)}." if found else ""


def _pair(contrast: Contrast) -> str:
    return f"{contrast.policy} - {contrast.control}"


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
    grids = [cells(table)] + ([] if likelihood is None else [cells(likelihood)])
    header, rows = control_cells(table)
    if rows:
        grids.append((header, rows))
    return "\n\n".join([*(_grid(*grid) for grid in grids), reading(table)])


def _grid(header: list[str], rows: list[list[str]]) -> str:
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
        "at most 5% of the time by itself, so expect one false alarm in twenty rows, and several "
        f"at once where {table.reference}, which all rows are compared with, happened to draw well "
        f"or badly.{''.join(_odd_draws(table))}"
    )


def _odd_draws(table: ComparisonTable) -> list[str]:
    """A sentence for each untrained policy, which masks at random, too, that is told apart from
    random masking: nothing but the draws can be why."""
    untrained = {control_name(name, "untrained") for name in table.scores}
    return [
        f" Here {row.name}, which masks at random as well, is {row.versus.verdict} than "
        f"{each.reference} by {each.headline}: the draws were unusual, so weigh the other verdicts "
        "by that."
        for each in filter(None, (table, by_likelihood(table)))
        for row in each.rows
        if each.reference == RANDOM and row.name in untrained and row.versus is not None
        if row.versus.verdict in ("better", "worse")
    ]
