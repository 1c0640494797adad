"""Any policy as a chooser of fragments: contiguous stretches of a sentence (MASS)."""

from __future__ import annotations

from typing import Any

import numpy as np

from agents.strategies.base import Batch, Observation
from agents.strategies.schedules import Masks


class FragmentOf:
    """Masks the fragment in which a policy would mask most.

    The fragment is as long as the budget allows; it is the window of that many maskable tokens
    that holds the most tokens of the policy's own mask, the earliest of several.

    Args:
        policy: a learned policy or a strategy; it is shown the same budget.
        share: of the budget that the policy itself may mask, when the fragment takes all of it: a
            policy that may mask half of a sentence says less about where the best half is than one
            that must name its few best tokens.
    """

    def __init__(self, policy: Masks, share: float = 1.0) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"share is {share}; it is a share of the budget, in (0, 1].")
        self.policy, self.share = policy, share

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
        """Fragments, int8, of the shape of ``input_ids``."""
        budget = np.asarray(observation["budget"])
        few = np.maximum(np.rint(budget * self.share), np.minimum(budget, 1)).astype(budget.dtype)
        masks, state = self.policy.predict(
            {**observation, "budget": few}, state, episode_start, deterministic
        )
        batch = Batch.of(observation)
        masks_BL = np.asarray(masks, dtype=bool).reshape(batch.maskable_BL.shape)
        fragments_BL = np.zeros(masks_BL.shape, np.int8)
        for row, mask_L in enumerate(masks_BL):
            places = np.flatnonzero(batch.maskable_BL[row])
            length = int(batch.budget_B[row])
            if length:
                hits = np.convolve(mask_L[places], np.ones(length), "valid")
                start = int(hits.argmax())
                fragments_BL[row, places[start : start + length]] = 1
        return fragments_BL.reshape(np.shape(observation["input_ids"])), state
