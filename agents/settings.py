"""Every choice of the learning agent, in one place, with the two published sets of values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args, get_origin, get_type_hints

import numpy as np

INPUTS = ("embeddings", "states", "statistics")


@dataclass(frozen=True)
class AgentSettings:
    """What the masking actor-critic sees, how it explores, what it learns from.

    ``AgentSettings()`` is the sample-efficient agent, ``AgentSettings.PAPER`` the one of Kang, Han
    and Hwang (EMNLP 2020); ``dataclasses.replace`` changes the latter.
    """

    PAPER: ClassVar[AgentSettings]

    inputs: tuple[str, ...] = INPUTS
    """What a token is described by: ``embeddings`` (static), ``states`` (last layer),
    ``statistics`` (frequency, position, word length)."""
    components: int = 64
    """Whitened principal components kept of each kind of input, but all of the statistics; 0 feeds
    the raw states."""
    width: int = 32
    """Width of the policy's Transformer block; 0 takes the width of its input."""
    heads: int = 4
    """Attention heads wished for; the nearest smaller divisor of the width is used."""
    feed_forward: bool = True
    """A whole Transformer block; else self-attention alone, as BERT's."""
    head_width: int = 64
    """Hidden width of the scoring and the value network."""
    shortcut: bool = True
    """A linear path from input to score beside the Transformer block."""

    metric: str = "nll"
    """The score learned from: a key of ``info["scores"]``, or ``headline`` for the environment's
    own. Whether more or less of it is better is what ``env.higher_is_better`` says; without a word
    there, of ``nll`` less is, of all others more."""
    reward: Literal["difference", "sign"] = "difference"
    """What two scores on the same data say: their difference, or only which is better."""
    critic: Literal["decomposed", "state-value"] = "decomposed"
    """``decomposed``: a score is a sum over masked tokens; ``state-value``: one value a context,
    and credit only to the tokens that some rival did not mask."""
    diminishing: float = 0.5
    """A word masked n times in a run counts n to the power of 1 minus this (decomposed critic):
    0 for a plain sum, 0.5 for the square root, 1 for every word once."""
    exploration: Literal["policy", "tokens"] = "policy"
    """``policy``: one perturbation an episode, shared by all its masks; ``tokens``: each token is
    drawn from the policy by itself."""
    repeatable: Literal["top", "draw"] = "draw"
    """What ``deterministic=True`` asks for: the tokens of highest score, or a draw from the policy
    whose noise depends on the context alone. Equally good words then share the masks."""
    lean: float = 8.0
    """Standard deviation, over tokens, of the scores that a perturbed policy samples from."""
    self_play: Literal["none", "random", "frozen", "learning", "antithetic"] = "antithetic"
    """The opponent: absent; random masks; the player when it last won; a second learner; the
    player's own perturbation reversed."""

    gradient: Literal["expected", "sampled"] = "expected"
    """The actor's gradient: exact over all tokens (needs the decomposed critic), or from the
    tokens in replay, weighted by importance."""
    importance: Literal["none", "truncated", "clipped"] = "truncated"
    """Importance weights of replayed tokens: absent, cut at ``importance_limit``, or PPO's."""
    importance_limit: float = 2.0
    """Largest weight (truncated), or one plus the width of the trust region (clipped)."""
    value_limit: float = 1.3
    """A token worth more than this is worth no more, in standard deviations over tokens (decomposed
    critic): what is beyond is mostly error, and would bind all masks to a few words."""
    entropy: float = 0.25
    """Weight of the entropy bonus, in units of the reward (state-value critic) or of the
    standard deviation of token values (decomposed critic)."""
    value_weight: float = 0.25
    """Weight of the squared error of the state value."""

    learning_rate: float = 3e-3
    """Of Adam."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    batch: int = 16
    """Contexts (expected gradient) or masked tokens (sampled) of one update."""
    updates: int = 10
    """Updates after each episode."""
    replay_capacity: int = 50_000
    """Masked tokens remembered of each learner (the agent, and an opponent that learns)."""
    replay_contexts: int = 5_000
    """Different contexts remembered."""
    replay_start: int = 1
    """Masked tokens to remember before the first update; till then the opponent is random."""
    replay_priority: bool = False
    """Replay surprising tokens more, and tokens that recur in their context less."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, np.generic):  # of a sweep; JSON does not know it
                object.__setattr__(self, name, value.item())
        for name, kind in get_type_hints(type(self)).items():
            known = get_args(kind) if get_origin(kind) is Literal else None
            if known and getattr(self, name) not in known:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(known)}."
                )
        unknown = set(self.inputs) - set(INPUTS)
        if unknown or not self.inputs:
            raise ValueError(
                f"inputs is {self.inputs}; it must name at least one of {', '.join(INPUTS)}."
            )
        if self.gradient == "expected" and self.critic != "decomposed":
            raise ValueError(
                "gradient='expected' needs critic='decomposed'; "
                "use gradient='sampled' with a state-value critic."
            )
        if self.self_play == "antithetic" and self.exploration != "policy":
            raise ValueError(
                "self_play='antithetic' reverses the perturbation of exploration='policy'; "
                f"exploration is '{self.exploration}'."
            )
        self._check_components()
        if not 0 <= self.diminishing <= 1 or not self.value_limit > 0:
            raise ValueError(
                f"diminishing is {self.diminishing}, value_limit {self.value_limit}; the first "
                "must lie between 0 and 1, the second above 0."
            )
        self._check_numbers()
        sharpness = self.lean > 0 and self.entropy >= 0
        # Such a player multiplies its scores by the entropy weight (``Experience``).
        explores = self.critic == "decomposed" and self.exploration == "policy"
        if not sharpness or ((self.gradient == "expected" or explores) and not self.entropy):
            raise ValueError(
                f"lean is {self.lean} and entropy {self.entropy}; both must be positive."
            )

    def _check_numbers(self) -> None:
        counts = ("batch", "updates", "replay_capacity", "replay_contexts", "head_width", "heads")
        for least, names in ((1, counts), (0, ("width", "replay_start", "value_weight"))):
            for name in names:
                if not getattr(self, name) >= least:
                    raise ValueError(
                        f"{name} is {getattr(self, name)}; it must be at least {least}."
                    )
        if self.replay_capacity < self.replay_start:
            raise ValueError(
                f"replay_capacity is {self.replay_capacity} and replay_start {self.replay_start}; "
                "so many tokens are never remembered and nothing is learned: raise the first or "
                "lower the second."
            )
        if self.importance == "clipped" and not self.importance_limit > 1:
            raise ValueError(
                f"importance_limit is {self.importance_limit}; with importance='clipped' it is one "
                "plus the width of the trust region and must be above 1."
            )
        for name in ("max_grad_norm", "importance_limit"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0.")
        if not 0 <= self.learning_rate < math.inf:
            raise ValueError(
                f"learning_rate is {self.learning_rate}; it must be finite, 0 or more."
            )

    def _check_components(self) -> None:
        if self.components < 0:
            raise ValueError(f"components is {self.components}; it must not be negative.")
        if self.components == 0 and (
            self.critic == "decomposed"
            or self.exploration == "policy"
            or "statistics" in self.inputs
        ):
            raise ValueError(
                "components is 0 (raw states), but the decomposed critic, policy exploration and "
                "word statistics work on whitened components; give at least 1."
            )


AgentSettings.PAPER = AgentSettings(
    inputs=("states",),
    components=0,
    width=0,
    heads=12,
    feed_forward=False,
    head_width=128,
    shortcut=False,
    metric="headline",
    reward="sign",
    critic="state-value",
    exploration="tokens",
    repeatable="top",
    self_play="learning",
    gradient="sampled",
    importance="truncated",
    entropy=0.01,
    learning_rate=1e-4,
    batch=64,
    replay_start=2_000,  # question answering; classification: 500
    replay_priority=True,
)
