"""Paired comparisons over seeds: intervals, verdicts, and how many seeds a claim needs.

Every comparison of the project is paired: masking A and masking B share a seed (data, order, head
initialisation, dropout), and only the differences d_s = a_s - b_s are looked at. The verdict is
read from the t interval of their mean. Student's t is computed here, so that no statistics library
is needed at run time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import Literal

import numpy as np

Verdict = Literal["better", "worse", "no detectable difference"]
LEVEL = 0.95
"""Of the interval behind a verdict."""
POWER = 0.8
"""Probability with which a number of seeds is to detect an effect."""
SIGN_TEST_PAIRS = 6
"""With fewer pairs not even unanimous signs reach 5% in the exact two-sided sign test."""
ROUNDING = 1e-9
"""Differences are the same if they differ by no more than this share of the largest: a share of
right answers is rounded, and so the differences of two pairs that gain one answer each."""


@dataclass(frozen=True)
class Comparison:
    """A paired difference over seeds, ``values - reference``, in the metric's own units.

    Attributes:
        difference: mean of the paired differences.
        low, high: t interval of the mean; infinite with fewer than two pairs.
        pairs: number of seeds.
        verdict: in the sense of the metric: a lower loss is "better".
    """

    difference: float
    low: float
    high: float
    pairs: int
    verdict: Verdict


def compare(
    values: Sequence[float],
    reference: Sequence[float],
    *,
    higher_is_better: bool = True,
) -> Comparison:
    """Compare two lists of scores that share their seeds, in the same order.

    Raises:
        ValueError: if the lists differ in length or are empty.
    """
    if len(values) != len(reference) or not len(values):
        raise ValueError(
            f"A paired comparison needs the same seeds on both sides: "
            f"{len(values)} scores against {len(reference)} were given."
        )
    differences = np.asarray(values, dtype=float) - np.asarray(reference, dtype=float)
    low, high = t_interval(differences)
    return Comparison(
        difference=float(differences.mean()),
        low=low,
        high=high,
        pairs=len(differences),
        verdict=_verdict(differences, low, high, higher_is_better),
    )


def t_interval(differences: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Student's t interval of the mean; infinite with fewer than two values."""
    values = np.asarray(differences, dtype=float)
    mean = float(values.mean())
    if len(values) < 2:
        return -math.inf, math.inf
    quantile = t_quantile(0.5 + LEVEL / 2, len(values) - 1)
    half = quantile * values.std(ddof=1) / math.sqrt(len(values))
    return mean - float(half), mean + float(half)


def _verdict(differences: np.ndarray, low: float, high: float, higher_is_better: bool) -> Verdict:
    """The side of zero on which the whole t interval lies.

    Coarse metrics can give the same difference for every seed. The t interval is then a point and
    proves nothing; the exact sign test decides instead, which needs six pairs. An interval that is
    not a number (a score that is none, as of a run that diverged) proves nothing either.
    """
    flat = np.ptp(differences) <= ROUNDING * np.abs(differences).max()
    clear = low > 0 or high < 0
    if (flat and len(differences) < SIGN_TEST_PAIRS) or not clear:
        return "no detectable difference"
    return "better" if (low > 0) == higher_is_better else "worse"


def false_alarm_rate(
    differences: Sequence[float],
    pairs: int,
    *,
    trials: int = 2000,
    seed: int = 0,
) -> float:
    """How often ``pairs`` seeds of A against A would be called different.

    Args:
        differences: measured differences between two maskings of the same kind.
        pairs: seeds of the planned comparison.
        trials: simulated comparisons.
        seed: of the simulation.

    Returns:
        The share of trials with a verdict other than "no detectable difference". The measured
        differences are resampled with random signs, since A against A has no direction.
    """
    rng = np.random.default_rng(seed)
    pool = np.asarray(differences, dtype=float)
    drawn = rng.choice(pool, size=(trials, pairs)) * rng.choice([-1.0, 1.0], size=(trials, pairs))
    alarms = sum(
        _verdict(row, *t_interval(row), True) != "no detectable difference" for row in drawn
    )
    return alarms / trials


def seeds_needed(deviation: float, effect: float) -> int:
    """Smallest number of pairs at which an effect is detected with probability `POWER`.

    Args:
        deviation: standard deviation of the paired differences.
        effect: true difference, in the same units.

    Raises:
        ValueError: if the effect is zero: no number of seeds shows it.
    """
    if effect == 0:
        raise ValueError("No number of seeds detects an effect of zero; give the effect to detect.")
    if deviation == 0:
        return SIGN_TEST_PAIRS  # flat differences, see `_verdict`
    tail, reach = NormalDist().inv_cdf(0.5 + LEVEL / 2), NormalDist().inv_cdf(POWER)
    pairs = max(2, math.ceil(((tail + reach) * deviation / effect) ** 2))
    while _power(pairs, abs(effect) / deviation) < POWER:
        pairs += 1
    return pairs


def _power(pairs: int, effect_size: float) -> float:
    """Power of the two-sided t test, by the shifted-t approximation of the noncentral t."""
    critical = t_quantile(0.5 + LEVEL / 2, pairs - 1)
    return 1.0 - t_cdf(critical - effect_size * math.sqrt(pairs), pairs - 1)


def t_cdf(t: float, freedom: int) -> float:
    """Distribution function of Student's t, exact for integer degrees of freedom.

    Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4: a finite sum of
    powers of cos(theta), theta = atan(t / sqrt(freedom)).
    """
    theta = math.atan2(t, math.sqrt(freedom))
    square = math.cos(theta) ** 2
    odd = freedom % 2
    term, total = (math.cos(theta) if odd else 1.0), 0.0
    for k in range(1 if odd else 0, freedom - 1, 2):
        total += term
        term *= square * (k + 1) / (k + 2)
    summed = math.sin(theta) * total
    return 0.5 + (2 / math.pi * (theta + summed) if odd else summed) / 2


@cache
def t_quantile(probability: float, freedom: int) -> float:
    """Inverse of `t_cdf`, by bisection."""
    if probability < 0.5:
        return -t_quantile(1 - probability, freedom)
    low, high = 0.0, 1.0
    while t_cdf(high, freedom) < probability:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if t_cdf(middle, freedom) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2
