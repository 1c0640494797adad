"""Paired comparisons against scipy, and the promise that A/A is rarely called different."""

import math

import numpy as np
import pytest

from nmg.statistics import (
    compare,
    false_alarm_rate,
    seeds_needed,
    t_cdf,
    t_interval,
    t_quantile,
)

stats = pytest.importorskip("scipy.stats")


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 30, 101])
def test_student_t_equals_scipy(freedom):
    for t in (-8.0, -1.3, 0.0, 0.4, 2.0, 6.5):
        assert t_cdf(t, freedom) == pytest.approx(stats.t.cdf(t, freedom), abs=1e-12)
    for probability in (0.01, 0.3, 0.5, 0.8, 0.975, 0.999):
        expected = stats.t.ppf(probability, freedom)
        assert t_quantile(probability, freedom) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_t_interval_equals_scipy():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=8), rng.normal(size=8)
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    result = compare(a, b)
    assert (result.low, result.high) == pytest.approx((expected.low, expected.high))
    assert result.pairs == 8


def test_verdict_follows_the_direction_of_the_metric():
    better = compare([2.0, 2.1, 2.2, 2.1], [1.0, 1.0, 1.1, 1.2])
    assert better.verdict == "better"
    assert compare([2.0, 2.1, 2.2], [1.0, 1.0, 1.1], higher_is_better=False).verdict == "worse"
    assert compare([1.0, 2.0, 3.0], [2.0, 1.0, 3.1]).verdict == "no detectable difference"


def test_one_seed_and_flat_differences_prove_nothing():
    one = compare([3.0], [1.0])
    assert one.verdict == "no detectable difference"
    assert one.low == -math.inf
    assert compare([1.5] * 3, [1.0] * 3).verdict == "no detectable difference"
    assert compare([1.5] * 6, [1.0] * 6).verdict == "better"
    # 29 and 58 of 200 right against 28 and 57: one more each, but for rounding.
    rounded = [100 * np.mean(np.arange(200) < right) for right in (29, 58, 28, 57)]
    assert rounded[0] - rounded[2] != rounded[1] - rounded[3]
    assert compare(rounded[:2], rounded[2:]).verdict == "no detectable difference"
    assert compare([1.0] * 9, [1.0] * 9).verdict == "no detectable difference"


@pytest.mark.parametrize("higher_is_better", [False, True])
def test_a_score_that_is_no_number_proves_nothing(higher_is_better):
    scores = [math.nan, 1.0, 1.1], [1.2, 1.3, 1.4]
    versus = compare(*scores, higher_is_better=higher_is_better)
    assert versus.verdict == "no detectable difference"


def test_unequal_lists_are_refused():
    with pytest.raises(ValueError, match="same seeds"):
        compare([1.0, 2.0], [1.0])


@pytest.mark.parametrize("pairs", [3, 5, 10])
def test_a_against_a_is_called_different_in_at_most_five_percent(pairs):
    normal = np.random.default_rng(0).normal(size=500)
    assert false_alarm_rate(normal, pairs, trials=4000) < 0.06
    # Masking one against the other has no direction, whichever was taken for the first.
    assert false_alarm_rate(np.abs(normal), pairs, trials=4000) < 0.06
    coarse = np.round(normal * 2) / 2
    assert false_alarm_rate(coarse, pairs, trials=4000) < 0.06


def test_seeds_needed_gives_the_power_it_promises():
    rng = np.random.default_rng(0)
    pairs = seeds_needed(1.0, 0.8)
    rows = rng.normal(0.8, 1.0, size=(3000, pairs))
    found = np.mean([t_interval(row)[0] > 0 for row in rows])
    assert 0.75 < found < 0.88
    flat = seeds_needed(0.0, 1.0)
    assert compare([1.0] * flat, [0.0] * flat).verdict == "better"
    assert compare([1.0] * (flat - 1), [0.0] * (flat - 1)).verdict == "no detectable difference"
    with pytest.raises(ValueError, match="effect of zero"):
        seeds_needed(1.0, 0.0)
