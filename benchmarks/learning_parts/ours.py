"""This project's agent as a learner of the comparison."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from agents.actor_critic import MaskingActorCritic
from agents.settings import AgentSettings
from learning_parts.field import Field

After = Callable[[int, Any], None]
"""Called after every episode with the number of episodes played and the policy."""


@dataclass(frozen=True)
class Ours:
    """``MaskingActorCritic``.

    Attributes:
        settings: of the agent, if not the default ones.
        references: of the environment, besides the opponent.
        paired: whether agent and references share their seeds.
        finetune_seeds: averaged into a score, instead of the setting's.
    """

    settings: AgentSettings | None = None
    references: tuple[str, ...] = ("random",)
    paired: bool = True
    finetune_seeds: int | None = None

    def learn(self, field: Field, seed: int, episodes: int, after: After) -> MaskingActorCritic:
        """Play that many episodes; gives the agent."""
        env = field.environment(
            references={name: name for name in self.references},
            paired=self.paired,
            finetune_seeds=self.finetune_seeds,
        )
        agent = MaskingActorCritic(
            env, self.settings, token_features=field.training.states, seed=seed, device="cpu"
        )
        agent.attach_opponent()
        agent.learn(episodes * env.contexts_per_episode, callback=_AfterUpdates(after))
        return agent


class _AfterUpdates(BaseCallback):
    """An episode is over when its updates are made, which is when the next one begins."""

    def __init__(self, after: After) -> None:
        super().__init__()
        self._after, self._played, self._told = after, 0, 0

    def _on_step(self) -> bool:
        self._played += int(self.locals["dones"][0])
        return True

    def _on_rollout_start(self) -> None:
        self._tell()

    def _on_training_end(self) -> None:
        self._tell()

    def _tell(self) -> None:
        if self._played > self._told:
            self._told = self._played
            self._after(self._played, self.model.policy)
