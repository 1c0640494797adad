"""A/A calibration: how often the comparison calls random masking different from itself."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from envs.adaptation.jobs import Executor
from envs.references import UniformRandom
from nmg.comparison import AGAIN, RANDOM, tabulate
from nmg.evaluation import evaluate, seed_of
from nmg.statistics import LEVEL

MASKINGS = (RANDOM, AGAIN)


@dataclass(frozen=True)
class Calibration:
    """What came out of comparisons of random masking with random masking.

    Attributes:
        comparisons: how many.
        pairs: domains of each; no two comparisons share one.
        alarms: how many called a difference, by metric.
    """

    comparisons: int
    pairs: int
    alarms: dict[str, int]

    def __str__(self) -> str:
        lines = [
            f"random against random, {self.comparisons} "
            f"comparison{'s' * (self.comparisons != 1)} of {self.pairs} domains each, "
            "no domain used twice: called different"
        ]
        for metric, count in self.alarms.items():
            low, high = wilson_interval(count, self.comparisons)
            lines.append(
                f"  by {metric}: {count} of {self.comparisons} "
                f"({count / self.comparisons:.1%}, 95% interval {low:.1%} to {high:.1%})"
            )
        return "\n".join(lines)


def calibrate(bed: Any, executor: Executor, comparisons: int, pairs: int, seed: int) -> Calibration:
    """Compare random masking with itself, through the code of every other comparison.

    Args:
        bed: the testbed.
        executor: scores its jobs.
        comparisons: how many.
        pairs: domains of each.
        seed: of the domains.
    """
    alarms = dict.fromkeys(("nll", "accuracy"), 0)
    for number in range(comparisons):
        deals = [
            bed.world.deal(seed_of(seed, "calibration", number * pairs + pair))
            for pair in range(pairs)
        ]
        scores = evaluate(
            bed.world,
            deals,
            {name: UniformRandom() for name in MASKINGS},
            executor,
            budget=bed.budget,
            settings=bed.settings,
            run=seed + number,
        )
        for metric in alarms:
            better = bed.task.higher_is_better[metric]
            table = tabulate(scores, headline=metric, higher_is_better=better, unit="domains")
            versus = table.rows[1].versus
            alarms[metric] += versus is not None and versus.verdict != "no detectable difference"
    return Calibration(comparisons, pairs, alarms)


def wilson_interval(count: int, trials: int) -> tuple[float, float]:
    """Wilson's score interval of a share, at 95% (Wilson, 1927)."""
    z = NormalDist().inv_cdf(0.5 + LEVEL / 2)
    share, spread = count / trials, z * z / trials
    centre = (share + spread / 2) / (1 + spread)
    half = (share * (1 - share) * spread + spread**2 / 4) ** 0.5 / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)
