"""The networks that play: the agent's, and those of its opponents."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from agents.episode import Runs
from agents.experience import PLAYER, RIVAL
from agents.features import TokenFeatures
from agents.policy import MaskingNetwork, MaskingPolicy
from agents.self_play import AGENT, OPPONENT, Opponent
from agents.settings import AgentSettings


class Players:
    """The agent's policy and whoever it plays against.

    Attributes:
        policy: the agent's.
        networks: the agent's; with a frozen or learning opponent, that one's too.
        optimizers: of those that learn.
        opponents: one for each environment; all score with the last network.
        attached: whether they are references of an environment.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        features: TokenFeatures,
        settings: AgentSettings,
        *,
        seed: int,
        n_envs: int,
        device: torch.device,
    ) -> None:
        self.settings = settings
        self.attached = False
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed: that seeds GPUs too, which are not forked here.
            torch.default_generator.manual_seed(seed)
            policy = MaskingPolicy(
                observation_space, action_space, features=features, settings=settings
            )
            table = 0 if policy.network.table is None else policy.network.table.num_embeddings
            rival = MaskingNetwork(features.size, table, settings)
        policy.seed(seed)
        self.policy = policy.to(device)
        self.networks = [policy.network]
        if settings.self_play in ("frozen", "learning"):
            self.networks.append(rival.to(device))
        learners = self.networks if settings.self_play == "learning" else self.networks[:1]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Adam(network.parameters(), lr=settings.learning_rate, fused=True)
            for network in learners
        ]
        self.opponents = [
            Opponent(self.networks[-1], features, seed + number) for number in range(n_envs)
        ]

    def attach(self, env: Any) -> None:
        """Make the opponents references of an environment, or of those of a vector.

        Raises:
            ValueError: if they live in another process or have no references.
        """
        target = env.unwrapped if isinstance(env, VecEnv) else env
        members = getattr(target, "envs", None) or [target]
        for member, opponent in zip(members, self.opponents, strict=False):
            references = getattr(getattr(member, "unwrapped", member), "references", None)
            if references is None:
                raise ValueError(
                    f"Self-play '{self.settings.self_play}' needs an environment of this process "
                    "with a dictionary 'references'; use a DummyVecEnv of masking environments, "
                    "or self_play='none'."
                )
            references[OPPONENT] = opponent
        self.attached = True

    def update_frozen_opponent(self, runs: Runs) -> None:
        """Let a frozen opponent become the player that beat it."""
        if self.settings.self_play != "frozen" or OPPONENT not in runs.scores:
            return
        if runs.scores[AGENT] > runs.scores[OPPONENT]:
            self.networks[RIVAL].load_state_dict(self.networks[PLAYER].state_dict())

    def step(self, player: int, loss: torch.Tensor) -> None:
        """One step of a player's optimiser."""
        self.optimizers[player].zero_grad()
        loss.backward()
        limit = self.settings.max_grad_norm
        torch.nn.utils.clip_grad_norm_(self.networks[player].parameters(), limit)
        self.optimizers[player].step()
