"""The rows of the comparison: what learns, for how long, and what it is there to show."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

from agents.settings import AgentSettings
from learning_parts.field import Field
from learning_parts.others import Bandit, Library, RandomSearch
from learning_parts.ours import After, Ours

DEFAULT = AgentSettings()
PAPER = replace(AgentSettings.PAPER, replay_start=500)
"""With the value that the paper uses for classification."""


class Learner(Protocol):
    """Plays episodes on a field and hands its policy out after each; may give what can be saved."""

    def learn(self, field: Field, seed: int, episodes: int, after: After) -> Any: ...


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: short; names the result files.
        says: for the table.
        learner: what learns.
        episodes: how many it plays.
        group: part of the table.
    """

    name: str
    says: str
    learner: Learner
    episodes: int
    group: str


def _row(name: str, says: str, episodes: int = 20, **changes: Any) -> Row:
    """The default agent with some settings changed."""
    own = {
        key: changes.pop(key)
        for key in ("references", "paired", "finetune_seeds")
        if key in changes
    }
    learner = Ours(replace(DEFAULT, **changes), **own)
    return Row(name, says, learner, episodes, "ingredient")


ROWS = (
    Row("default", "default agent", Ours(), 60, "agent"),
    Row(
        "paper",
        "paper preset",
        Ours(PAPER, finetune_seeds=1),
        60,
        "agent",
    ),
    _row("accuracy", "accuracy instead of likelihood", metric="headline"),
    _row("sign", "sign of the difference instead of its size", reward="sign"),
    _row("unpaired", "other seeds for agent and references", paired=False),
    _row("one-seed", "one fine-tuning seed instead of four", finetune_seeds=1),
    _row("no-embeddings", "no token embeddings as input", inputs=("states", "statistics")),
    _row(
        "tokens", "exploring tokens instead of policies", exploration="tokens", self_play="random"
    ),
    _row(
        "state-value",
        "one value a context instead of a value a token",
        critic="state-value",
        gradient="sampled",
    ),
    _row("own-run", "learning from its own run alone", references=(), self_play="none"),
    Row("ppo", "PPO", Library("PPO"), 30, "other"),
    Row("maskable-ppo", "MaskablePPO, token by token", Library("MaskablePPO"), 30, "other"),
    Row("dqn", "DQN, token by token", Library("DQN"), 30, "other"),
    Row("bandit", "linear contextual bandit, Thompson sampling", Bandit(), 30, "other"),
    Row("random-search", "random search over fixed strategies", RandomSearch(), 20, "other"),
    _row("self-play-none", "self-play: none", self_play="none"),
    _row("self-play-random", "self-play: random", self_play="random"),
    _row("self-play-frozen", "self-play: frozen", self_play="frozen"),
    _row("self-play-learning", "self-play: learning", self_play="learning"),
    _row("no-random", "without the run of random masks", references=()),
    _row("plain-sum", "a word masked again counts in full", diminishing=0.0),
    _row("uncut", "token values not cut", value_limit=100.0),
    _row("top", "tested by the top k instead of a draw", repeatable="top"),
)
