"""The table of a comparison: every masking, every metric, the paired difference, a verdict.

Where the headline counts right answers, the likelihood gets a verdict of its own: it has no ties,
tells masks apart with fewer seeds, and is what the default agent learns from.

A learned policy is also compared with its null controls directly: that both beat random masking
says nothing of which of the two is better.
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
CONTROLS = ("untrained", "shuffled")
"""Null controls of a learned policy: it before training, and its mask rates at other places."""


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


def draws_of_random(count: int) -> list[str]:
    """The rows that ``random`` is to be the mean of, itself the first."""
    return [RANDOM, *(f"{RANDOM}, draw {number}" for number in range(2, count + 1))]


def averaged(
    scores: Mapping[str, Sequence[Mapping[str, float]]], names: Sequence[str]
) -> dict[str, Sequence[Mapping[str, float]]]:
    """The same rows, but one in place of these: the mean of each metric in each pair.

    Args:
        scores: masking -> one dict of metrics per pair.
        names: the rows; the first gives the mean its name and place.
    """
    means = [
        {metric: float(np.mean([one[metric] for one in pair])) for metric in pair[0]}
        for pair in zip(*(scores[name] for name in names), strict=True)
    ]
    kept = {name: pairs for name, pairs in scores.items() if name not in names[1:]}
    return {**kept, names[0]: means}


def control_name(policy: str, control: str) -> str:
    """The row of a policy's null control."""
    return f"{policy}: {control}"


@dataclass(frozen=True)
class Contrast:
    """A policy compared with one of its null controls.

    Attributes:
        policy: a row of the table.
        control: which of ``CONTROLS``.
        metric: what is compared.
        versus: the policy's paired difference to the control.
    """

    policy: str
    control: str
    metric: str
    versus: Comparison


def against_controls(table: ComparisonTable) -> list[Contrast]:
    """Each policy against each of its null controls, by the headline metric."""
    values = {
        name: [pair[table.headline] for pair in pairs] for name, pairs in table.scores.items()
    }
    return [
        Contrast(
            name,
            control,
            table.headline,
            compare(
                values[name],
                values[control_name(name, control)],
                higher_is_better=table.higher_is_better,
            ),
        )
        for name in table.scores
        for control in CONTROLS
        if control_name(name, control) in table.scores
    ]


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
    tables = [table] if likelihood is None else [table, likelihood]
    contrasts = [finite(asdict(found)) for each in tables for found in against_controls(each)]
    if contrasts:
        more["controls"] = contrasts
    return {
        "headline": table.headline,
        "higher_is_better": table.higher_is_better,
        "pairs": table.pairs[0],
        "unit": table.pairs[1],
        "rows": rows,
        **more,
    }
