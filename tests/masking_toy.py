"""A masking environment with a known answer: a mask's score is a sum over its token types."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
from gymnasium import spaces

TYPES, LENGTH, CONTEXTS, BUDGET = 60, 12, 30, 2


class ToyMasking(gym.Env):
    """``CONTEXTS`` contexts of ``LENGTH`` tokens an episode; a third of the types are worth 1.

    The likelihood-like score is minus the mean worth of the masked tokens plus noise that differs
    between runs; ``accuracy`` is the same without noise, times 100.
    """

    def __init__(self, noise=0.1, permute=False, batched=True, references=None):
        self.worth = np.zeros(TYPES)
        self.worth[5:25] = 1.0
        self.noise, self.permute, self.batched = noise, permute, batched
        self.headline = "accuracy"
        self.references = {"random": RandomMasks()} if references is None else references
        self.observation_space = spaces.Dict(
            {
                "input_ids": spaces.Box(0, TYPES - 1, (LENGTH,), np.int32),
                "attention_mask": spaces.MultiBinary(LENGTH),
                "word_ids": spaces.Box(-1, LENGTH, (LENGTH,), np.int32),
                "maskable": spaces.MultiBinary(LENGTH),
                "context_id": spaces.Box(0, 2**31 - 1, (1,), np.int32),
                "budget": spaces.Box(0, LENGTH, (1,), np.int32),
            }
        )
        self.action_space = spaces.MultiBinary(LENGTH)
        self.episode_index, self.run_seed = -1, 0
        if batched:
            self.observe_episode = lambda: self._observe(slice(None))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode_index = 0 if seed is not None else self.episode_index + 1
        self.run_seed = seed if seed is not None else self.run_seed
        self.episode_index = (options or {}).get("episode", self.episode_index)
        self.rng = np.random.default_rng([self.run_seed, self.episode_index])
        ids = self.rng.integers(4, TYPES, (CONTEXTS, LENGTH))
        self.lengths = self.rng.integers(LENGTH - 3, LENGTH + 1, CONTEXTS)
        self.real = np.arange(LENGTH) < self.lengths[:, None]
        ids[:, 0] = 1
        self.ids = np.where(self.real, ids, 0).astype(np.int32)
        self.masks = []
        return self._observe(0), {}

    def _observe(self, rows):
        maskable = self.real & (self.ids > 3)
        words = np.where(maskable, np.arange(LENGTH), -1)
        number = np.arange(CONTEXTS)[:, None] + CONTEXTS * self.episode_index
        budget = np.full((CONTEXTS, 1), BUDGET)
        values = (self.ids, self.real, words, maskable, number, budget)
        spaces_ = self.observation_space.spaces
        names = ("input_ids", "attention_mask", "word_ids", "maskable", "context_id", "budget")
        return {
            n: v[rows].astype(spaces_[n].dtype).copy() for n, v in zip(names, values, strict=True)
        }

    def step(self, action):
        observation = self._observe(len(self.masks))
        assert not (action & ~observation["maskable"].astype(bool)).any()
        assert action.sum() <= observation["budget"][0]
        self.masks.append(np.asarray(action, dtype=np.int8))
        if len(self.masks) < CONTEXTS:
            return self._observe(len(self.masks)), 0.0, False, False, {}
        everything = self._observe(slice(None))
        masks = {"agent": np.stack(self.masks)}
        for name, policy in self.references.items():
            if hasattr(policy, "seed"):
                policy.seed(self.episode_index)
            masks[name] = policy.predict(everything, deterministic=False)[0]
        scores = {name: self._score(mask) for name, mask in masks.items()}
        gain = scores["agent"]["accuracy"] - scores.get("random", {"accuracy": 0})["accuracy"]
        info = {"masks": masks, "scores": scores, "context_ids": everything["context_id"][:, 0]}
        return self._observe(-1), float(gain), True, False, info

    def _score(self, mask):
        value = self.share(mask.astype(bool))
        if self.permute:  # whatever was masked, the score is that of a random mask
            value = self.share(RandomMasks(int(self.rng.integers(2**31))).draw(self.real))
        noisy = value + self.noise * self.rng.standard_normal()
        return {"nll": 1.0 - noisy, "accuracy": 100 * value}

    def share(self, mask):
        """Share of the masked tokens that are worth masking."""
        return float(self.worth[self.ids[mask]].mean()) if mask.any() else 0.0


class RandomMasks:
    """Masks maskable tokens at random within the budget."""

    def __init__(self, seed=0):
        self.seed(seed)

    def seed(self, seed):
        self.rng = np.random.default_rng(seed)

    def draw(self, maskable_BL, budget=BUDGET):
        noise = np.where(maskable_BL, self.rng.random(maskable_BL.shape), -1)
        return noise.argsort(axis=1).argsort(axis=1) >= maskable_BL.shape[1] - budget

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return self.draw(observation["maskable"].astype(bool)).astype(np.int8), state


class TypeStates:
    """Stands in for a language model: a fixed vector a token type, in which worth is linear."""

    def __init__(self, width=12, separation=2.0):
        rng = np.random.default_rng(5)
        self.table = rng.standard_normal((TYPES, width)).astype(np.float32)
        self.table[5:25] += separation * rng.standard_normal(width) / np.sqrt(width)
        self.width = self.embedding_width = width

    def __call__(self, input_ids_BL, attention_mask_BL, context_ids_B):
        return self.table[input_ids_BL]


def learned_share(agent, episodes=5, seed=99):
    """Share of worthy tokens among those that the deterministic policy masks on new episodes."""
    env = ToyMasking()
    shares = []
    for episode in range(episodes):
        env.reset(seed=seed, options={"episode": episode})
        mask, _ = agent.predict(env.observe_episode(), deterministic=True)
        shares.append(env.share(mask.astype(bool)))
    return float(np.mean(shares))
