"""The masking environment of MASS: the action is one contiguous fragment of each sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from envs import spaces
from envs.adaptation.jobs import Executor
from envs.adaptation.mass import fragment_of_length
from envs.episode import Episode
from envs.masking_env import MaskingEnv
from envs.references import Policy, UniformRandom, reseed
from envs.spaces import Observation
from envs.world import World

Reading = Callable[[np.ndarray, Observation], tuple[np.ndarray, int, int]]
"""Bits, bool (L,), and what they answer -> the fragment, bits dropped, bits over the budget."""


class FragmentMaskingEnv(MaskingEnv):
    """Choose which fragment of each sentence an encoder-decoder is to predict (MASS).

    ## Description
    As `MaskingEnv`, with an encoder-decoder that is pre-trained on the fragments, fine-tuned on
    pairs of source and target, and scored on what it generates.

    ## Action Space
    `MultiBinary(L)`. The fragment begins at the first maskable token whose bit is set and goes on
    while bits are set, as far as the budget goes; special tokens do not interrupt it. All other
    bits are ignored. `info` counts bits after the fragment's end, and on special tokens, as
    `mask/dropped`, and bits of a fragment that is too long as `mask/over_budget`.

    A policy that scatters its bits would mask a single token: `agents.fragments.FragmentOf` turns
    any policy into one that answers with fragments, and `reading=agents.fragments.densest_fragment`
    has the environment itself play the stretch, as long as the budget, that holds most of the bits.
    `info["masks"]` always holds the fragments, as they were trained on.

    ## Arguments
    As of `MaskingEnv`. `budget` is the longest fragment, as a share of the sentence (the paper's k
    is 0.5). The reference `"random"` is a fragment of that length at a uniform place; the masks of
    every other reference are read as actions are. `reading` says how: a callable as `fragment_of`,
    which is the default.

    ## Version History
    * v0: initial version
    """

    def __init__(
        self,
        world: World,
        executor: Executor,
        *,
        budget: float = 0.5,
        reading: Reading | None = None,
        **options: Any,
    ) -> None:
        self._reading = reading or fragment_of
        super().__init__(world, executor, budget=budget, **options)

    def _random(self) -> Policy:
        return RandomFragment()

    def _allowed(
        self, episode: Episode, action: np.ndarray, row: int
    ) -> tuple[np.ndarray, int, int]:
        read = self._read(action, episode.observation(row))
        mask, dropped, over = super()._allowed(episode, read[0], row)
        return mask, dropped + read[1], over + read[2]

    def _reference_masks(self, episode: Episode, name: str, policy: Any) -> np.ndarray:
        return super()._reference_masks(episode, name, _AsFragments(policy, self._read))

    def _read(self, mask: np.ndarray, observation: Observation) -> tuple[np.ndarray, int, int]:
        return self._reading(spaces.as_mask(mask, self.world.max_length), observation)


def fragment_of(mask: np.ndarray, observation: Observation) -> tuple[np.ndarray, int, int]:
    """The fragment that an action means.

    Args:
        mask: bits, shape (L,).
        observation: what the action answers, unbatched.

    Returns:
        The fragment (L,) int8, the bits dropped, the bits over the budget.

    Raises:
        ValueError: if the mask has another shape, or is no mask.
    """
    maskable = observation["maskable"].astype(bool)
    bits = spaces.as_mask(mask, len(maskable))
    places = np.flatnonzero(maskable)
    chosen = bits[places]
    start = int(chosen.argmax()) if chosen.any() else len(places)
    gaps = np.flatnonzero(~chosen[start:])
    end = start + int(gaps[0]) if len(gaps) else len(places)
    kept = min(end - start, int(observation["budget"][0]))
    fragment = np.zeros(maskable.shape, np.int8)
    fragment[places[start : start + kept]] = 1
    return fragment, int(bits.sum()) - (end - start), end - start - kept


class RandomFragment(UniformRandom):
    """A fragment as long as the budget allows, at a uniform place."""

    def predict(
        self,
        observation: Observation,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Draw fragments; there is no deterministic way to be random, so the flag is ignored."""
        maskable_BL = np.atleast_2d(observation["maskable"]).astype(bool)
        masks_BL = np.zeros(maskable_BL.shape, np.int8)
        budgets = np.asarray(observation["budget"]).reshape(-1).tolist()
        for mask_L, maskable_L, budget in zip(masks_BL, maskable_BL, budgets, strict=True):
            mask_L[:] = fragment_of_length(maskable_L, budget, self._rng)
        return masks_BL.reshape(np.shape(observation["input_ids"])), state


class _AsFragments:
    """A policy whose masks are read as actions are."""

    def __init__(self, policy: Any, reading: Reading) -> None:
        self._policy, self._reading = policy, reading

    def seed(self, seed: int) -> None:
        reseed(self._policy, seed)

    def predict(self, observation: Observation, **options: Any) -> tuple[np.ndarray, Any]:
        masks_BL, state = self._policy.predict(observation, **options)
        rows = [
            self._reading(mask_L, {name: values[row] for name, values in observation.items()})[0]
            for row, mask_L in enumerate(masks_BL)
        ]
        return np.stack(rows), state
