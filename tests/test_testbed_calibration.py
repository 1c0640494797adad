"""A/A calibration counts the alarms of the real comparison and says how sure the count is."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from nmg import testbed_calibration
from nmg.cli import main
from nmg.comparison import AGAIN
from nmg.progress import ProgressBar
from nmg.testbed_calibration import calibrate, wilson_interval
from nmg.testbed_command import SHARES, _noise, _share_name, response


def test_alarms_are_counted_by_metric_and_no_domain_is_used_twice(monkeypatch) -> None:
    dealt = []

    def deal(seed: np.random.SeedSequence) -> str:
        dealt.append(seed.generate_state(1)[0])
        return "deal"

    def scores(world, deals, maskings, executor, **settings):
        number = settings["run"]
        nll = [1.0, 1.1, 1.2]
        # The second comparison differs by nearly the same in every pair, the others by nothing.
        shift = np.array([0.5, 0.51, 0.52]) if number == 1 else np.zeros(3)
        return {
            "random": [{"nll": value, "accuracy": 50.0} for value in nll],
            AGAIN: [{"nll": v + s, "accuracy": 50.0} for v, s in zip(nll, shift, strict=True)],
        }

    monkeypatch.setattr(testbed_calibration, "evaluate", scores)
    bed = SimpleNamespace(
        world=SimpleNamespace(deal=deal),
        budget=0.1,
        settings=None,
        task=SimpleNamespace(higher_is_better={"nll": False, "accuracy": True}),
    )
    found = calibrate(bed, None, comparisons=4, pairs=3, seed=0)
    assert found.alarms == {"nll": 1, "accuracy": 0}
    assert len(set(dealt)) == len(dealt) == 12
    assert "by nll: 1 of 4 (25.0%" in str(found)


def test_a_measurement_in_the_testbed_says_what_it_will_cost(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(ProgressBar, "job_done", lambda self, remembered: done.append(self))
    done: list[ProgressBar] = []
    command = ["testbed", "--setting", "small"]
    assert main([*command, "--calibrate", "1", "--pairs", "2"]) == 0
    told = capsys.readouterr().out
    assert "Forecast: 4 score jobs" in told.splitlines()[0]
    assert told.splitlines()[1].startswith("Took")
    assert len(done) == 4
    assert main([*command, "--seeds", "1"]) == 0
    assert "Forecast: 11 score jobs" in capsys.readouterr().out
    assert len(done) == 4 + 11
    assert main([*command, "--calibrate", "1", "--seeds", "3"]) == 2
    assert "--calibrate is 1 and --seeds 3" in capsys.readouterr().err


def test_the_effect_of_the_best_mask_is_told_against_the_noise_of_random_ones() -> None:
    nll = {"random": (1.0, 1.2), AGAIN: (1.1, 1.3), "best mask": (0.7, 1.0)}
    scores = {
        name: [{"nll": value, "accuracy": 100 - 10 * value} for value in values]
        for name, values in nll.items()
    }
    assert _noise(scores).splitlines() == [
        f"{metric}: best against random {effect}, two random masks differ by {noise} (sd): 3.0 "
        "times."
        for metric, effect, noise in (("nll", "0.300", "0.100"), ("accuracy", "3.000", "1.000"))
    ]


def test_the_response_is_the_paired_difference_to_random() -> None:
    """Two pairs: Student's 95% interval is 12.706 deviations of the mean to either side."""
    scores = {"random": [{"nll": 1.0}, {"nll": 2.0}]}
    for share in SHARES:
        low, high = 1.0 - share + 0.1, 2.0 - share - 0.1
        scores[_share_name(share)] = [{"nll": x, "informative": share} for x in (low, high)]
    half = 12.706 * 0.1
    expected = [(share, -share, -share - half, -share + half) for share in SHARES]
    np.testing.assert_allclose(response(scores, "nll"), expected, atol=1e-3)


@pytest.mark.parametrize(
    ("count", "trials", "low", "high"),
    [(10, 200, 0.0274, 0.0896), (0, 200, 0.0, 0.0188), (200, 200, 0.9812, 1.0)],
)
def test_wilson_intervals_are_those_of_the_formula(count, trials, low, high) -> None:
    assert wilson_interval(count, trials) == pytest.approx((low, high), abs=1e-4)
