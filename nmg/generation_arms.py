"""The arms of a comparison in generation.

One row of the table is one *arm*: how the model is pre-trained on the texts of the training pairs
(not at all, on fragments, on scattered tokens) and how it is then fine-tuned on few of the pairs
(as usual, or with adversarially masked sources).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nmg.generation_config import UNIFORM, GenerationComparison, ObjectiveName
from nmg.maskings import policy_name
from nmg.options import ConfigError


@dataclass(frozen=True)
class Arm:
    """One row of the table.

    Attributes:
        objective: how it is trained.
        k: share of a sentence that is masked; ``None`` without pre-training.
        placement: where fragments lie: ``uniform``, a strategy, or the run folder of a learned
            policy.
    """

    objective: ObjectiveName
    k: float | None = None
    placement: str = UNIFORM

    @property
    def kind(self) -> str:
        """How pairs are fine-tuned on: ``plain`` or ``amt``."""
        return "amt" if self.objective == "amt" else "plain"

    @property
    def name(self) -> str:
        """As the table calls it."""
        if self.k is None:
            return self.objective
        share = {0.0: "one token", 1.0: "all"}.get(self.k, f"{self.k:g}")
        place = self.placement
        if is_learned(place):
            place = policy_name(Path(place), ())
        where = "" if place == UNIFORM else f" at {place}"
        return f"{self.objective} k={share}{where}"


def is_learned(placement: str) -> bool:
    """Whether a placement is a folder, of a learned policy, and not a word."""
    return placement != UNIFORM and ("/" in placement or Path(placement).is_dir())


def arms(comparison: GenerationComparison) -> list[Arm]:
    """Every arm, the reference first.

    Raises:
        ConfigError: if the table would call two of them the same.
    """
    found = [Arm("none")]
    for objective in comparison.objective:
        if objective == "mass":
            places = comparison.placement
            found += [Arm(objective, share, place) for place in places for share in comparison.k]
        elif objective == "scattered":
            # One token, and all of them, are the same scattered or not.
            same = {0.0, 1.0} if "mass" in comparison.objective else set()
            shares = comparison.scattered_k or [k for k in comparison.k if k not in same]
            found += [Arm(objective, share) for share in shares]
        elif objective == "amt":
            found.append(Arm(objective))
    found = list(dict.fromkeys(found))
    names = [arm.name for arm in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"Two arms are called {twice!r}; give one of them, or rename a run.")
    return found
