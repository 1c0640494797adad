"""What past episodes taught: token frequencies, the basis of features, token values, replay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from agents.contexts import Contexts
from agents.critic import TokenValueCritic
from agents.episode import Runs, masked_sums
from agents.features import TokenFeatures
from agents.policy import MaskingNetwork, state_values
from agents.replay_buffer import MaskReplayBuffer, ReplayBatch
from agents.self_play import (
    AGENT,
    OPPONENT,
    RANDOM,
    UNIFORM,
    Perturbation,
    assign_credit,
    relative_scores,
)
from agents.settings import AgentSettings

PLAYER, RIVAL = 0, 1
"""The agent and its learning opponent, as replay and optimisers number them."""


class Experience:
    """Takes finished episodes in; gives replay, token values and the next thing to try.

    Attributes:
        features: what describes the tokens.
        memory: the replay.
        critic: values tokens; ``None`` with a state-value critic, and before the first episode.
    """

    def __init__(
        self, settings: AgentSettings, features: TokenFeatures, memory: MaskReplayBuffer
    ) -> None:
        self.settings, self.features, self.memory = settings, features, memory
        self.critic: TokenValueCritic | None = None

    @property
    def started(self) -> bool:
        """Whether there is enough in replay to learn from."""
        return self.memory.tokens() >= self.settings.replay_start

    def learn(self, contexts: Contexts, runs: Runs) -> None:
        """Let all runs of an episode, the references' too, teach the token values."""
        self.features.count(contexts)
        self.features.fit(contexts)
        if self.settings.critic != "decomposed" or not self.features.ready:
            return
        if self.critic is None:
            basis = self.features
            self.critic = TokenValueCritic(basis.share_D, basis.group_D, basis.covariance_DD)
        names = list(runs.scores)
        masks_RBL = np.stack([runs.masks[name] for name in names])
        score_R = np.array([runs.scores[name] for name in names])
        self.critic.observe(
            masked_sums(self.features, contexts, masks_RBL, self.settings.diminishing),
            masks_RBL.sum(axis=(1, 2)),
            relative_scores(score_R, self.settings.reward),
        )

    def summary(self) -> dict[str, float]:
        """Figures of the critic for the log."""
        if self.critic is None:
            return {}
        return {f"critic/{name}": value for name, value in self.critic.summary().items()}

    def remember(
        self,
        player: int,
        network: MaskingNetwork,
        contexts: Contexts,
        runs: Runs,
        log_probs_BL: np.ndarray,
    ) -> None:
        """Put a player's masks into replay, with the credit that each token earned.

        Args:
            player: ``PLAYER`` or ``RIVAL``; the rival's reward is the mirror image.
            network: the player's; the credit that its state value expected is what surprise is
                measured from.
            contexts: B contexts.
            runs: of the episode.
            log_probs_BL: log-probability of drawing each token first.
        """
        name, other = (AGENT, OPPONENT) if player == PLAYER else (OPPONENT, AGENT)
        kind = self.settings.reward
        values_B = np.zeros(len(contexts))
        if self.settings.replay_priority and network.value is not None:
            values_B = state_values(network, self.features, contexts)
        credits_BL = assign_credit(runs.masks, runs.scores, name, (other, RANDOM), kind)
        self.memory.add(contexts, runs.masks[name], log_probs_BL, credits_BL, values_B, player)

    def draw_perturbation(self, rng: np.random.Generator) -> Perturbation:
        """How the next episode departs from the policy.

        With token values, a draw from their posterior: what the critic is sure of comes from the
        policy, what it is unsure of from the draw, and the scores' spread stays about the same.
        """
        settings, features = self.settings, self.features
        if settings.exploration == "tokens":
            return Perturbation()
        if not features.ready:
            return UNIFORM
        if self.critic is None:
            direction = rng.standard_normal(features.size)
            return Perturbation(direction * settings.lean / max(features.spread(direction), 1e-12))
        mean = self.critic.mean()
        away = self.critic.sample(rng) - mean
        sure, unsure = features.spread(mean), features.spread(away)
        total = max(float(np.hypot(sure, unsure)), 1e-12)
        # A trained policy's scores have a spread of 1 / entropy, less what value_limit cuts off;
        # uncut, they would get one of ``lean`` here.
        sharper = settings.lean * settings.entropy
        return Perturbation(away * settings.lean / total, sharper * sure / total)

    def opponent_perturbation(self, player: Perturbation) -> Perturbation:
        """How the opponent departs from its policy when the player departs so from its own."""
        if self.settings.self_play in ("none", "random") or not self.started:
            return UNIFORM
        return player.reversed() if self.settings.self_play == "antithetic" else Perturbation()

    def value_weights(self, device: torch.device) -> Tensor:
        """Weights of the expected token value, scaled to a spread of 1 over tokens, (D,)."""
        if self.critic is None:
            return torch.zeros(self.features.size, device=device)
        mean = self.critic.mean()
        scaled = mean / max(self.features.spread(mean), 1e-12)
        return torch.as_tensor(scaled, dtype=torch.float32, device=device)

    def sample(self, player: int, batch_size: int) -> ReplayBatch | None:
        """What one update of a player learns from; ``None`` while it has nothing to learn from."""
        if self.settings.gradient == "expected":
            return replace(self.memory.sample_contexts(batch_size), player=player)
        if not self.memory.tokens(player):
            return None
        return self.memory.sample_tokens(batch_size, player)
