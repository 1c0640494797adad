"""Rewards: callables on the scores of an episode.

A reward is called once an episode as ``reward(scores, references)``. ``scores`` maps ``"agent"``
and the name of every reference to a ``Score``; ``references`` are those names in the order they
were given to the environment. It returns a number; anything with this signature will do::

    def points_per_token(scores, references):
        agent = scores["agent"]
        return agent.metrics["f1"] / agent.cost["pretrain_tokens"]

``gain``, ``sign`` and ``nll_gain`` compare with the *first* reference; further references are
scored and reported, and leave the reward alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from envs.adaptation.jobs import Score

Reward = Callable[[Mapping[str, Score], Sequence[str]], float]

AGENT = "agent"
"""Name of the agent's own score."""


def gain(
    scores: Mapping[str, Score],
    references: Sequence[str],
    *,
    metric: str = "nll",
    higher_is_better: bool = False,
) -> float:
    """How much better than the first reference, in the units of ``metric``.

    Raises:
        ValueError: if there is no reference, or no such metric.
    """
    if not references:
        raise ValueError("This reward is a comparison and needs at least one reference.")
    agent, reference = (_metric(scores[name], metric) for name in (AGENT, references[0]))
    return agent - reference if higher_is_better else reference - agent


def sign(
    scores: Mapping[str, Score],
    references: Sequence[str],
    *,
    metric: str = "nll",
    higher_is_better: bool = False,
) -> float:
    """Win 1, tie 0, loss -1 against the first reference (Kang et al. 2020)."""
    difference = gain(scores, references, metric=metric, higher_is_better=higher_is_better)
    return float((difference > 0) - (difference < 0))


def nll_gain(scores: Mapping[str, Score], references: Sequence[str]) -> float:
    """Nats of negative log-likelihood saved: finer grained and less noisy than a task metric."""
    return gain(scores, references)


def compares(reward: Reward) -> bool:
    """Whether this is ``gain``, ``sign`` or ``nll_gain``, which cannot do without a reference."""
    return getattr(reward, "func", reward) in (gain, sign, nll_gain)


def resolve_reward(reward: str | Reward, metric: str, higher_is_better: bool) -> Reward:
    """The callable behind a reward's name; ``gain`` and ``sign`` look at ``metric``.

    Raises:
        ValueError: if the name is unknown.
    """
    if callable(reward):
        return reward
    named: dict[str, Reward] = {
        "gain": partial(gain, metric=metric, higher_is_better=higher_is_better),
        "sign": partial(sign, metric=metric, higher_is_better=higher_is_better),
        "nll_gain": nll_gain,
    }
    if reward not in named:
        raise ValueError(
            f"Unknown reward {reward!r}: give one of {', '.join(named)}, "
            "or a callable on (scores, references)."
        )
    return named[reward]


def _metric(score: Score, metric: str) -> float:
    if metric not in score.metrics:
        raise ValueError(
            f"The reward looks at {metric!r}, but the score has {', '.join(score.metrics)}."
        )
    return score.metrics[metric]
