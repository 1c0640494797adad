"""What a single training will cost, before it starts, from a short trial of its own steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from envs.adaptation.jobs import Progress
from nmg.forecast import amount, duration

Trial = Callable[[int, Progress], None]
"""Trains about so many steps and leaves nothing changed."""


@dataclass(frozen=True)
class StepForecast:
    """Predicted cost of a training.

    Attributes:
        steps: gradient steps.
        tokens: read in all of them.
        seconds: predicted wall time.
    """

    steps: int
    tokens: float
    seconds: float

    def __str__(self) -> str:
        steps = "1 step" if self.steps == 1 else f"{self.steps:,} steps"
        return f"Forecast: {steps}, {amount(self.tokens)} tokens, about {duration(self.seconds)}."

    def against(self, seconds: float) -> str:
        """A line that compares the forecast with what it took."""
        return f"Took {duration(seconds)}; forecast {duration(self.seconds)}."


def seconds_a_step(trial: Trial, most: int, seconds: float = 2.5) -> float:
    """Measured on trials of more and more steps, the first of each left out.

    Args:
        trial: runs the steps.
        most: steps that there are.
        seconds: a trial of this length is long enough.
    """
    steps = 2
    while True:
        ends: list[float] = []
        started = time.perf_counter()
        trial(min(steps, most), lambda *_: ends.append(time.perf_counter()))  # noqa: B023
        if len(ends) < 2:
            return time.perf_counter() - started
        spent = (ends[-1] - ends[0]) / (len(ends) - 1)
        if steps >= most or ends[-1] - started > seconds / 2:
            return spent
        steps *= 2
