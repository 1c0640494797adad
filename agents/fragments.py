"""Any policy as a chooser of fragments: contiguous stretches of a sentence (MASS)."""

from __future__ import annotations

from collections.abc import Mapping
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
        rows = zip(masks_BL, batch.maskable_BL, batch.budget_B, strict=True)
        fragments = [
            densest_fragment(mask_L, {"maskable": maskable_L, "budget": [length]})[0]
            for mask_L, maskable_L, length in rows
        ]
        return np.reshape(fragments, np.shape(observation["input_ids"])), state


def densest_fragment(
    mask_L: np.ndarray, observation: Mapping[str, Any]
) -> tuple[np.ndarray, int, int]:
    """The fragment of a mask as ``FragmentOf`` takes it: what ``FragmentMaskingEnv`` can read by.

    Args:
        mask_L: bits.
        observation: of one context; ``maskable`` and ``budget`` are looked at.

    Returns:
        The fragment (L,) int8, the bits outside of it, and 0: none of it is over the budget.
    """
    bits_L = np.asarray(mask_L, dtype=bool)
    places = np.flatnonzero(observation["maskable"])
    length = min(int(observation["budget"][0]), len(places))
    fragment_L = np.zeros(bits_L.shape, np.int8)
    if length:
        start = int(np.convolve(bits_L[places], np.ones(length), "valid").argmax())
        fragment_L[places[start : start + length]] = 1
    return fragment_L, int(bits_L.sum() - bits_L[fragment_L == 1].sum()), 0
