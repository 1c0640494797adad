"""References: the maskings that the agent's is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

import numpy as np
import torch

NONE = "none"
"""The reference that leaves further pre-training out."""


class Policy(Protocol):
    """Anything that answers an observation (L,) or a batch of them (B, L) with masks.

    A policy that holds a generator of its own also has ``seed(int)``; one that draws from torch's
    global generator needs nothing, since that is seeded around the call.
    """

    def predict(
        self,
        observation: dict[str, np.ndarray],
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]: ...


class UniformRandom:
    """Masks as many tokens as the budget allows, every maskable token being equally likely."""

    def __init__(self, seed: int = 0) -> None:
        self.seed(seed)

    def seed(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def predict(
        self,
        observation: dict[str, np.ndarray],
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Draw masks; there is no deterministic way to be random, so the flag is ignored."""
        maskable = observation["maskable"].astype(bool)
        keys = np.full(maskable.shape, np.inf)
        keys[maskable] = self._rng.random(int(maskable.sum()))  # padding draws nothing
        ranks = keys.argsort(axis=-1).argsort(axis=-1)
        return ((ranks < observation["budget"]) & maskable).astype(np.int8), state


Reference = Policy | Literal["none"]


def resolve_references(
    references: Mapping[str, Policy | str] | None, random: Callable[[], Policy] = UniformRandom
) -> dict[str, Reference]:
    """References by name; the words ``"none"`` and ``"random"`` stand for the two built-in ones.

    Args:
        references: ``None`` is random alone.
        random: makes what ``"random"`` stands for.

    Raises:
        ValueError: if a reference is no policy and an unknown word, or is called ``agent``.
    """
    if references is None:
        references = {"random": "random"}
    resolved: dict[str, Reference] = {}
    for name, reference in references.items():
        if name == "agent":
            raise ValueError("A reference cannot be called 'agent': that is the agent's own score.")
        if not isinstance(reference, str) and callable(getattr(reference, "predict", None)):
            resolved[name] = reference
        elif reference == NONE:
            resolved[name] = "none"
        elif reference == "random":
            resolved[name] = random()
        else:
            raise ValueError(
                f"Reference {name!r} is {reference!r}: give 'none', 'random' or a policy."
            )
    return resolved


def reseed(policy: Any, seed: int | np.random.Generator) -> None:
    """Start a policy's own generator anew, if it has one.

    Args:
        policy: with or without a method ``seed(int)``.
        seed: the seed, or what draws it; nothing is drawn for a policy without that method.
    """
    start = getattr(policy, "seed", None)
    if callable(start):
        start(int(seed.integers(2**31)) if isinstance(seed, np.random.Generator) else seed)


def reference_masks(policy: Policy, observations: dict[str, np.ndarray], seed: int) -> np.ndarray:
    """Masks (B, L) of a policy for a whole episode, the same for the same seed."""
    reseed(policy, seed)
    # Seeds GPUs too; what is not in use yet has no state to put back.
    used = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=used):
        torch.manual_seed(seed)
        masks, _ = policy.predict(observations, deterministic=False)
    return np.asarray(masks)
