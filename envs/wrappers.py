"""Other ways to act in the masking environment."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from envs.masking_env import MaskingEnv
from envs.spaces import Observation


class TokenwiseMasking(gym.Wrapper[Any, Any, Any, Any]):
    """One token a step instead of one context: for agents that need a ``Discrete`` action.

    A context takes as many steps as its budget allows tokens; an episode masks all contexts. The
    observation gains ``masked`` (L,), the tokens of this context chosen so far. Choosing a token
    that was chosen already or may not be masked spends the step and masks nothing; the first kind
    is counted in ``info["mask/repeated"]``, the second in ``info["mask/dropped"]``.
    ``action_masks()`` rules both out for agents such as MaskablePPO.
    """

    def __init__(self, env: gym.Env[Any, np.ndarray]) -> None:
        super().__init__(env)
        inner = env.observation_space
        if not isinstance(inner, gym.spaces.Dict) or not isinstance(env.unwrapped, MaskingEnv):
            raise ValueError("TokenwiseMasking wraps a MaskingEnv, in its own observation space.")
        self.length = inner["input_ids"].shape[0]  # type: ignore[index]
        masked = gym.spaces.Box(0, 1, (self.length,), np.int8)
        self.observation_space = gym.spaces.Dict({**inner.spaces, "masked": masked})
        self.action_space = gym.spaces.Discrete(self.length)
        self._repeated = 0
        self._observation: Observation | None = None
        self._mask = np.zeros(self.length, np.int8)
        self._steps_left = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self._repeated = 0
        self._begin(observation)
        return self._with_masked(), info

    def step(self, action: int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        self._begun()
        if not self.action_space.contains(action):
            raise ValueError(f"The action is {action!r}; it is a place, 0 to {self.length - 1}.")
        mask = self._mask.copy()
        mask[action] = 1
        # First: where it fails, no token was chosen, and the step can be repeated.
        outcome = self.env.step(mask.copy()) if self._steps_left <= 1 else None
        self._steps_left -= 1
        self._repeated += int(self._mask[action])
        self._mask = mask
        if outcome is None:
            info = {"episode_index": self.get_wrapper_attr("episode_index")}
            return self._with_masked(), 0.0, False, False, info
        observation, reward, terminated, truncated, info = outcome
        if terminated or truncated:
            info["mask/repeated"] = self._repeated
        else:
            self._begin(observation)
        return self._with_masked(), float(reward), terminated, truncated, info

    def action_masks(self) -> np.ndarray:
        """Tokens that may be chosen now, bool, shape (L,)."""
        return self._begun()["maskable"].astype(bool) & (self._mask == 0)

    def _begun(self) -> Observation:
        if self._observation is None:
            raise gym.error.ResetNeeded("There is no episode yet: call reset first.")
        return self._observation

    def _begin(self, observation: Observation) -> None:
        self._observation = observation
        self._mask = np.zeros(self.length, np.int8)
        self._steps_left = max(1, int(observation["budget"][0]))

    def _with_masked(self) -> Observation:
        entries = {name: values.copy() for name, values in self._begun().items()}
        return {**entries, "masked": self._mask.copy()}
