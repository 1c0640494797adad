"""Other people's learners, given what the default agent is given.

All of them read the same description of a token (whitened embeddings, states and statistics,
``agents.features``) through the same small network, one score a token, and are judged as the
default agent is: by the tokens of highest score. What differs is how they learn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from agents import budgeted
from agents.contexts import Contexts
from agents.features import TokenFeatures
from agents.settings import AgentSettings
from agents.strategies import make_strategy
from envs.masking_env import MaskingEnv
from envs.text.corpus import Context
from envs.wrappers import TokenwiseMasking
from learning_parts.field import Field
from learning_parts.ours import After

EPISODES_A_ROLLOUT = 2
"""Of PPO, whose own default of 2,048 steps would be 32 episodes."""
LEARNING_RATE = 3e-3
"""The default agent's; with the libraries' own 3e-4 and 1e-4 so few updates move nothing."""
DQN_SCALE = 20.0
"""A reward is a few hundredths of a nat; values start at a few tenths."""
STRATEGIES = ("random", "whole_word", "span", "idf", "common", "rare", "pmi")
"""Fixed strategies that need nothing but the contexts."""


def describe(field: Field, seed: int) -> TokenFeatures:
    """The default agent's description of tokens, to be fitted on the first episode."""
    world: Any = field.training.world
    return TokenFeatures(field.training.states, AgentSettings(), world.vocab_size, seed)


class Described(gym.ObservationWrapper[Any, Any, Any]):
    """Shows components of the tokens, (L, D), and the tokens masked so far, (L,)."""

    def __init__(self, env: gym.Env[Any, Any], features: TokenFeatures) -> None:
        super().__init__(env)
        self.features = features
        length = env.observation_space["input_ids"].shape[0]  # type: ignore[index]
        self.observation_space = gym.spaces.Dict(
            {
                "phi": gym.spaces.Box(-np.inf, np.inf, (length, features.size), np.float32),
                "masked": gym.spaces.Box(0, 1, (length,), np.float32),
            }
        )

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(**options)
        contexts = Contexts.of(self.env.unwrapped.observe_episode())  # type: ignore[attr-defined]
        self.features.count(contexts)
        self.features.fit(contexts)
        phi_BLD = self.features(contexts).numpy()
        self._rows = dict(zip(contexts.context_ids.tolist(), phi_BLD, strict=True))
        return self.observation(observation), info

    def observation(self, observation: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        phi_LD = self._rows[int(observation["context_id"][0])]
        masked_L = observation.get("masked", np.zeros(len(phi_LD)))
        return {"phi": phi_LD, "masked": np.asarray(masked_L, dtype=np.float32)}


class PerToken(BaseFeaturesExtractor):
    """One score a token, from its description alone."""

    def __init__(self, space: gym.spaces.Dict) -> None:
        length, size = space["phi"].shape  # type: ignore[misc]
        super().__init__(space, features_dim=length)
        width = AgentSettings().head_width
        self.net = nn.Sequential(nn.Linear(size + 1, width), nn.GELU(), nn.Linear(width, 1))

    def forward(self, observation: Mapping[str, Tensor]) -> Tensor:
        described = torch.cat([observation["phi"], observation["masked"][..., None]], dim=-1)
        return self.net(described).squeeze(-1)


@dataclass(frozen=True, eq=False)
class ByScore:
    """Masks the tokens of highest score.

    Attributes:
        features: describe the tokens.
        score: of tokens described by (B, L, D), (B, L).
    """

    features: TokenFeatures
    score: Callable[[Tensor], Tensor]

    @torch.no_grad()
    def predict(
        self, observation: Any, state: Any = None, start: Any = None, deterministic: bool = True
    ) -> tuple[np.ndarray, Any]:
        contexts = Contexts.of(observation)
        scores_BL = self.score(self.features(contexts))
        maskable_BL = torch.as_tensor(contexts.maskable)
        chosen_BL = budgeted.top_k(scores_BL, maskable_BL, torch.as_tensor(contexts.budget))
        return chosen_BL.numpy().astype(np.int8), state


@dataclass(frozen=True)
class Library:
    """An algorithm of Stable-Baselines3 or sb3-contrib."""

    name: Literal["PPO", "MaskablePPO", "DQN"]

    def learn(self, field: Field, seed: int, episodes: int, after: After) -> None:
        """Play that many episodes."""
        inner = field.environment()
        env: Any = inner if self.name == "PPO" else TokenwiseMasking(inner)
        features = describe(field, seed)
        env = Described(env, features)
        steps = inner.contexts_per_episode * (1 if self.name == "PPO" else _budget(inner))
        agent, extractor = self._agent(env, steps, seed)

        def score(phi_BLD: Tensor) -> Tensor:
            return extractor({"phi": phi_BLD, "masked": torch.zeros(phi_BLD.shape[:2])})

        policy = ByScore(features, score)
        agent.learn(episodes * steps, callback=_AfterEpisodes(after, policy, episodes))

    def _agent(self, env: Any, steps: int, seed: int) -> tuple[Any, PerToken]:
        common: dict[str, Any] = {"learning_rate": LEARNING_RATE, "gamma": 1.0, "seed": seed}
        layers: dict[str, Any] = {"features_extractor_class": PerToken, "net_arch": []}
        if self.name == "DQN":
            from stable_baselines3 import DQN

            env = gym.wrappers.TransformReward(env, lambda reward: DQN_SCALE * reward)
            common |= {"learning_starts": steps, "buffer_size": 20_000, "device": "cpu"}
            agent: Any = DQN("MultiInputPolicy", env, policy_kwargs=layers, **common)
            agent.q_net.q_net = agent.q_net_target.q_net = nn.Identity()
            return agent, agent.q_net.features_extractor
        if self.name == "PPO":
            from stable_baselines3 import PPO as algorithm
        else:
            from sb3_contrib import MaskablePPO as algorithm
        common |= {"n_steps": EPISODES_A_ROLLOUT * steps, "device": "cpu"}
        layers["share_features_extractor"] = False
        agent = algorithm("MultiInputPolicy", env, policy_kwargs=layers, **common)
        agent.policy.action_net = nn.Identity()  # the scores are the logits
        return agent, agent.policy.pi_features_extractor


def _budget(env: MaskingEnv) -> int:
    """Tokens that may be masked in a context; the same in all contexts of the testbed."""
    env.reset(seed=0)
    return int(env.observe_episode()["budget"][0, 0])


class _AfterEpisodes(BaseCallback):
    """Tells of every finished episode, and ends a rollout that would play more than asked for."""

    def __init__(self, after: After, policy: Any, episodes: int) -> None:
        super().__init__()
        self._after, self._masking, self._episodes, self._played = after, policy, episodes, 0

    def _on_step(self) -> bool:
        if self.locals["dones"][0]:
            self._played += 1
            self._after(self._played, self._masking)
        return self._played < self._episodes


@dataclass(frozen=True)
class Bandit:
    """Linear contextual bandit with Thompson sampling (Agrawal and Goyal, 2013).

    A masked token is a pull, its description the context, and the episode's gain over random the
    reward of every pull. Weights are drawn anew for every context that is masked, so that tokens
    and not episodes are explored.

    Attributes:
        spread: of a reward about its expectation, in units of the rewards seen so far.
    """

    spread: float = 1.0

    def learn(self, field: Field, seed: int, episodes: int, after: After) -> None:
        """Play that many episodes."""
        env, features = field.environment(), describe(field, seed)
        rng = np.random.default_rng([seed, 5])
        precision_DD, target_D = np.eye(features.size), np.zeros(features.size)
        gains: list[float] = []
        for episode in range(episodes):
            env.reset(seed=seed if episode == 0 else None)
            contexts = Contexts.of(env.observe_episode())
            features.count(contexts)
            features.fit(contexts)
            phi_BLD = features(contexts).numpy().astype(float)
            mean_D = np.linalg.solve(precision_DD, target_D)
            noise_BD = rng.standard_normal((len(contexts), features.size))
            away_BD = np.linalg.solve(np.linalg.cholesky(precision_DD).T, noise_BD.T).T
            weights_BD = mean_D + self.spread * away_BD
            masks_BL = _best(np.einsum("bld,bd->bl", phi_BLD, weights_BD), contexts)
            _, gain, *_ = env.step_episode(masks_BL)
            gains.append(gain)
            pulled_ND = phi_BLD[masks_BL.astype(bool)]
            precision_DD += pulled_ND.T @ pulled_ND
            target_D += pulled_ND.sum(axis=0) * gain / max(float(np.std(gains)), 1e-3)
            learned = torch.as_tensor(np.linalg.solve(precision_DD, target_D), dtype=torch.float32)
            after(episode + 1, ByScore(features, learned.__rmatmul__))


@dataclass(frozen=True)
class Fixed:
    """A fixed strategy that counts in whatever contexts it is to mask.

    Attributes:
        name: of the strategy.
        world: whose tokenizer it may need.
        seed: of its draws.
    """

    name: str
    world: Any
    seed: int = 0

    def predict(
        self, observation: Any, state: Any = None, start: Any = None, deterministic: bool = True
    ) -> tuple[np.ndarray, Any]:
        contexts = Contexts.of(observation)
        rows = zip(contexts.input_ids, contexts.word_ids, contexts.maskable, strict=True)
        made = make_strategy(
            self.name,
            tokenizer=self.world.tokenizer,
            contexts=[Context(*row) for row in rows],
        )
        made.seed(self.seed)
        return made.predict(observation)


@dataclass(frozen=True)
class RandomSearch:
    """Tries the fixed strategies in turn, in random order, and keeps the best on average."""

    def learn(self, field: Field, seed: int, episodes: int, after: After) -> None:
        """Play that many episodes."""
        env = field.environment()
        rng = np.random.default_rng([seed, 6])
        gains: dict[str, list[float]] = {name: [] for name in STRATEGIES}
        for episode in range(episodes):
            env.reset(seed=seed if episode == 0 else None)
            fewest = min(len(found) for found in gains.values())
            name = str(rng.choice([n for n, found in gains.items() if len(found) == fewest]))
            masks_BL, _ = Fixed(name, env.world, episode).predict(env.observe_episode())
            gains[name].append(env.step_episode(masks_BL)[1])
            best = max((n for n in gains if gains[n]), key=lambda n: float(np.mean(gains[n])))
            after(episode + 1, Fixed(best, env.world))


def _best(scores_BL: np.ndarray, contexts: Contexts) -> np.ndarray:
    chosen_BL = budgeted.top_k(
        torch.as_tensor(scores_BL),
        torch.as_tensor(contexts.maskable),
        torch.as_tensor(contexts.budget),
    )
    return chosen_BL.numpy().astype(np.int8)
