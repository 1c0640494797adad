"""Masking-rate schedules: which share of the budget is used at which step.

A schedule maps a step to a factor in [0, 1] of the budget: give the highest rate as budget.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from agents.strategies.base import Observation

Schedule = Callable[[int], float]


class Masks(Protocol):
    """Anything that masks: a strategy or a learned policy."""

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]: ...


@dataclass(frozen=True)
class LinearDecay:
    """From ``start`` to ``end`` in ``steps`` steps, then constant.

    Ankner et al. 2023, "Dynamic Masking Rate Schedules for MLM Pretraining" (arXiv 2305.15096):
    linear from 30% to 15%, which is a budget of 0.3 and the values below.
    """

    steps: int
    start: float = 1.0
    end: float = 0.5

    def __call__(self, step: int) -> float:
        return self.start + (self.end - self.start) * min(step / max(self.steps, 1), 1.0)


@dataclass(frozen=True)
class CosineDecay:
    """Like ``LinearDecay`` along half a cosine: slow at both ends.

    Yang et al. 2023, "Learning Better Masking for Better Language Model Pre-training": their code
    goes from 32% to 2%, nearly zero, which is a budget of 0.32 and the values below.
    """

    steps: int
    start: float = 1.0
    end: float = 0.0625

    def __call__(self, step: int) -> float:
        share = min(step / max(self.steps, 1), 1.0)
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * share)) / 2


@dataclass(frozen=True)
class CyclicDecay:
    """A list of factors, one a step, over and over (cyclic decaying rates: TIACBM, Findings of
    ACL 2025)."""

    factors: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25)

    def __call__(self, step: int) -> float:
        return self.factors[step % len(self.factors)]


class Scheduled:
    """A strategy or policy whose budget follows a schedule.

    Whoever trains sets ``step`` (an episode, an epoch, a batch); it does not move by itself. In
    the workers of a ``DataLoader`` it stays what it was when they were started.

    Args:
        policy: masks within the budget it is shown.
        schedule: step -> factor in [0, 1].
    """

    def __init__(self, policy: Masks, schedule: Schedule) -> None:
        self.policy, self.schedule, self.step = policy, schedule, 0

    def seed(self, seed: int) -> None:
        """Seed the policy, if it draws."""
        if hasattr(self.policy, "seed"):
            self.policy.seed(seed)

    def predict(
        self,
        observation: Observation,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Mask with the budget of the present step: rounded, and at least one token where the
        factor is above 0 and the budget is."""
        factor = self.schedule(self.step)
        if not 0 <= factor <= 1:
            raise ValueError(
                f"The schedule gave {factor} at step {self.step}; it must be in [0, 1]."
            )
        full = np.asarray(observation["budget"])
        scaled = np.maximum(np.rint(full * factor), np.minimum(full, float(factor > 0)))
        shown = {**observation, "budget": scaled.astype(full.dtype)}
        return self.policy.predict(shown, state, episode_start, deterministic)
