"""The opponent of self-play, and who earned what.

An opponent masks the same contexts as the player; both masks are scored on the same data with the
same seeds, so what differs is due to the masks. The environment calls the opponent as one of its
references; the agent makes it and hands it over (``MaskingActorCritic.attach_opponent``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from agents.budgeted import token_log_probs
from agents.contexts import Contexts
from agents.features import TokenFeatures
from agents.policy import MaskingNetwork, draw, score

AGENT, OPPONENT, RANDOM = "agent", "opponent", "random"
"""Names of the runs in ``info["masks"]`` and ``info["scores"]``."""


@dataclass(frozen=True, eq=False)
class Perturbation:
    """How one episode departs from the policy.

    Attributes:
        direction: added to the scores, linear in the components, float (D,); ``None`` for nothing.
        certainty: what the policy's own scores are multiplied with, 0 to ``lean * entropy`` of the
            settings: what is not doubted is played as sharply as what is tried.
        uniform: ignore both and mask at random.
    """

    direction: np.ndarray | None = None
    certainty: float = 1.0
    uniform: bool = False

    def reversed(self) -> Perturbation:
        """The same departure the other way round."""
        opposite = None if self.direction is None else -self.direction
        return Perturbation(opposite, self.certainty, self.uniform)


UNIFORM = Perturbation(uniform=True)


def perturbed_scores(
    network: MaskingNetwork,
    features: TokenFeatures,
    contexts: Contexts,
    perturbation: Perturbation,
) -> torch.Tensor:
    """Scores that a player samples from in an episode of this perturbation, (B, L)."""
    if perturbation.uniform:
        return torch.zeros(contexts.input_ids.shape)
    return score(network, features, contexts, perturbation.direction, perturbation.certainty)


class Opponent:
    """A reference policy whose strength the agent sets.

    Attributes:
        network: what it scores tokens with; the player's own, a copy of it, or a second learner.
        perturbation: how it departs from it in the episode being played; random until the agent
            says otherwise.
    """

    def __init__(self, network: MaskingNetwork, features: TokenFeatures, seed: int) -> None:
        self.network, self.features = network, features
        self.begin(UNIFORM)
        self.seed(seed)

    def begin(self, perturbation: Perturbation) -> None:
        """Play an episode of this perturbation."""
        self.perturbation = perturbation
        self._log_probs: dict[int, np.ndarray] = {}

    def seed(self, seed: int) -> None:
        """Restart the draws."""
        self.generator = np.random.default_rng([seed, 2])

    def predict(
        self,
        observation: Mapping[str, np.ndarray],
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Masks, int8, of the shape of ``observation["input_ids"]``."""
        contexts = Contexts.of(observation)
        scores_BL = perturbed_scores(self.network, self.features, contexts, self.perturbation)
        # A random opponent has no best mask: it draws, whatever is asked for.
        fixed = deterministic and not self.perturbation.uniform
        noise_BL = None if fixed else self.generator.gumbel(size=contexts.input_ids.shape)
        masks_BL = draw(scores_BL, contexts, noise_BL)
        # Noted now: before the episode ends, another one may change features and network.
        log_probs_BL = token_log_probs(scores_BL, torch.as_tensor(contexts.maskable)).numpy()
        self._log_probs |= zip(contexts.context_ids.tolist(), log_probs_BL, strict=True)
        return masks_BL.astype(np.int8).reshape(np.shape(observation["input_ids"])), state

    def log_probs(self, contexts: Contexts) -> np.ndarray | None:
        """Log-probability with which it drew each token of the episode first, (B, L); ``None`` if
        another than it masked one of these contexts."""
        numbers = contexts.context_ids.tolist()
        if not self._log_probs.keys() >= set(numbers):
            return None
        return np.stack([self._log_probs[number] for number in numbers])


def compare(mine: float, other: float, kind: str) -> float:
    """Reward of one score over another: their difference, or its sign."""
    return float(np.sign(mine - other)) if kind == "sign" else mine - other


def assign_credit(
    masks: Mapping[str, np.ndarray],
    scores: Mapping[str, float],
    player: str,
    rivals: Sequence[str],
    kind: str,
) -> np.ndarray:
    """Credit of every token that the player masked, float32 (B, L); NaN where there is none.

    A token earns the reward against the rivals that did not mask it, the least of them if several;
    a token that the player and all rivals masked tells nothing and gets none. Without rivals every
    masked token earns the player's score.

    Args:
        masks: bool (B, L) of each run.
        scores: of each run, higher is better.
        player: whose tokens.
        rivals: whom to compare with; those without a run are left out.
        kind: ``sign`` or ``difference``.
    """
    present = [name for name in rivals if name in masks and name in scores]
    mine_BL = masks[player].astype(bool)
    if not present:
        return np.where(mine_BL, scores[player], np.nan).astype(np.float32)
    credit_BL = np.full(mine_BL.shape, np.inf)
    for name in present:
        reward = compare(scores[player], scores[name], kind)
        alone_BL = mine_BL & ~masks[name].astype(bool)
        credit_BL[alone_BL] = np.minimum(credit_BL[alone_BL], reward)
    return np.where(np.isinf(credit_BL), np.nan, credit_BL).astype(np.float32)


def relative_scores(score_R: np.ndarray, kind: str) -> np.ndarray:
    """Scores as the decomposed critic learns from them.

    ``difference`` keeps them; ``sign`` keeps only who beat whom: the share of won comparisons
    less the share of lost ones.
    """
    if kind == "difference" or len(score_R) == 1:
        return score_R
    return np.sign(score_R[:, None] - score_R[None, :]).mean(axis=1)
