"""The masking policy: one attention block over described tokens, a score for each.

``MaskingNetwork`` is what is trained; ``MaskingPolicy`` is what acts: network, token features and
a generator of its own, behind Stable-Baselines3's ``predict``.

Shapes: B contexts, L tokens, D components of a token, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn

from agents import budgeted
from agents.attention_block import AttentionBlock
from agents.contexts import Contexts
from agents.features import TokenFeatures
from agents.real_tokens import RealTokens
from agents.settings import AgentSettings

SHORTCUT_GAIN = 10.0
"""Adam moves every weight by about the learning rate; the gain lets the linear path, whose weights
must reach the size of the scores, arrive in tens of updates instead of hundreds."""
CHUNK_TOKENS = 16_384
"""Padded tokens scored at once when acting, to bound memory."""
NOISE_SEED = 20201116
"""With the number of a context, the seed of its repeatable draw."""


class MaskingNetwork(nn.Module):
    """Scores tokens; with a state-value critic also values contexts.

    Args:
        size: D, components a token is described by.
        table: size of a learned token table, for environments without language-model states; 0
            for none.
        settings: widths and whether there is a linear shortcut and a value.
    """

    def __init__(self, size: int, table: int, settings: AgentSettings) -> None:
        super().__init__()
        width = settings.width or size
        self.project = nn.Linear(size, width) if settings.width else nn.Identity()
        self.table = nn.Embedding(table, width) if table else None
        self.block = AttentionBlock(width, settings.heads, settings.feed_forward)
        self.score = _perceptron(width, settings.head_width, start=0.0)
        self.shortcut = nn.Linear(size, 1, bias=False) if settings.shortcut else None
        self.value = (
            _perceptron(size, settings.head_width) if settings.critic == "state-value" else None
        )
        if self.shortcut is not None:
            nn.init.zeros_(self.shortcut.weight)

    def forward(self, phi_BLD: Tensor, input_ids_BL: Tensor, real_BL: Tensor) -> Tensor:
        """Scores (B, L): unnormalised log-probabilities of masking each token. What padding gets
        means nothing."""
        tokens = RealTokens(real_BL)
        phi_TD = tokens.take(phi_BLD)
        x_TW = self.project(phi_TD)
        if self.table is not None:
            x_TW = x_TW + self.table(tokens.take(input_ids_BL[..., None]).squeeze(-1))
        scores_T1 = self.score(self.block(x_TW, tokens))
        if self.shortcut is not None:
            scores_T1 = scores_T1 + SHORTCUT_GAIN * self.shortcut(phi_TD)
        return tokens.put(scores_T1).squeeze(-1)

    def state_value(self, phi_BLD: Tensor, real_BL: Tensor) -> Tensor:
        """Expected credit of a token masked in each context, (B,), from mean-pooled states."""
        assert self.value is not None
        weight_BL1 = real_BL[..., None].float()
        pooled_BD = (phi_BLD * weight_BL1).sum(1) / weight_BL1.sum(1).clamp(min=1)
        return self.value(pooled_BD).squeeze(-1)


def _perceptron(width: int, hidden: int, start: float = 1.0) -> nn.Sequential:
    """One hidden layer; ``start=0`` makes the untrained output the same for every input."""
    last = nn.Linear(hidden, 1)
    with torch.no_grad():
        last.weight.mul_(start)
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), last)


class MaskingPolicy(BasePolicy):
    """Masks contexts by drawing tokens within the budget.

    ``predict`` takes the observation of one context, (L,), or of several, (B, L). ``seed``
    restarts the draws. With ``deterministic=True`` a context always gets the same mask: the tokens
    of highest score or a draw of its own, as ``settings.repeatable`` says.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        *,
        features: TokenFeatures,
        settings: AgentSettings,
    ) -> None:
        super().__init__(observation_space, action_space)
        self.token_features = features
        learns_table = features.provider is None and "embeddings" in settings.inputs
        table = len(features.frequency) if learns_table else 0
        self.network = MaskingNetwork(features.size, table, settings)
        self.repeatable = settings.repeatable
        self.generator = np.random.default_rng(0)

    def save(self, path: str) -> None:
        """Refused: Stable-Baselines3's is a pickle."""
        raise NotImplementedError("A policy is saved with its agent: agent.save(folder).")

    @classmethod
    def load(cls, path: str, device: torch.device | str = "auto") -> MaskingPolicy:
        """Refused: to read Stable-Baselines3's pickle could run code."""
        raise NotImplementedError(
            "A policy is loaded with its agent: MaskingActorCritic.load(folder).policy."
        )

    def seed(self, seed: int) -> None:
        """Restart the draws of ``predict``."""
        self.generator = np.random.default_rng(seed)

    def predict(  # type: ignore[override]
        self,
        observation: Mapping[str, np.ndarray],
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Masks, int8, of the shape of ``observation["input_ids"]``; ``state`` is handed back."""
        contexts = Contexts.of(observation)
        noise_BL = self._noise(contexts, deterministic)
        masks_BL = draw(score(self.network, self.token_features, contexts), contexts, noise_BL)
        return masks_BL.astype(np.int8).reshape(np.shape(observation["input_ids"])), state

    def _noise(self, contexts: Contexts, deterministic: bool) -> np.ndarray | None:
        if not deterministic:
            return self.generator.gumbel(size=contexts.input_ids.shape)
        if self.repeatable == "top":
            return None
        length = contexts.input_ids.shape[1]
        seeds = [[NOISE_SEED, abs(int(number))] for number in contexts.context_ids]
        return np.stack([np.random.default_rng(seed).gumbel(size=length) for seed in seeds])

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        arrays = {name: tensor.cpu().numpy() for name, tensor in observation.items()}
        return torch.as_tensor(self.predict(arrays, deterministic=deterministic)[0])


@torch.no_grad()
def score(
    network: MaskingNetwork,
    features: TokenFeatures,
    contexts: Contexts,
    direction_D: np.ndarray | None = None,
    certainty: float = 1.0,
) -> Tensor:
    """Scores of every token of many contexts, float32 (B, L) on the CPU.

    Args:
        network: the policy's.
        features: what describes the tokens.
        contexts: B contexts.
        direction_D: of a perturbation, linear in the components, that is added to the scores.
        certainty: what the network's own scores are multiplied with.
    """
    batch, length = contexts.input_ids.shape
    scores_BL = torch.zeros(batch, length)
    step = max(1, CHUNK_TOKENS // length)
    device = next(network.parameters()).device
    added_D = None
    if direction_D is not None:
        added_D = torch.as_tensor(direction_D, dtype=torch.float32, device=device)
    for start in range(0, batch, step):
        part = contexts.rows(slice(start, start + step)).trimmed()
        phi_BLD = features(part)
        out_BL = certainty * network(phi_BLD, *network_inputs(part, device))
        if added_D is not None:
            out_BL = out_BL + phi_BLD @ added_D
        scores_BL[start : start + step, : out_BL.shape[1]] = out_BL.cpu()
    return scores_BL


@torch.no_grad()
def state_values(
    network: MaskingNetwork, features: TokenFeatures, contexts: Contexts
) -> np.ndarray:
    """Expected credit of a token masked in each of many contexts, float32 (B,)."""
    step = max(1, CHUNK_TOKENS // contexts.input_ids.shape[1])
    device = next(network.parameters()).device
    values = []
    for start in range(0, len(contexts), step):
        part = contexts.rows(slice(start, start + step)).trimmed()
        _, real_BL = network_inputs(part, device)
        values.append(network.state_value(features(part), real_BL).cpu().numpy())
    return np.concatenate(values)


def network_inputs(contexts: Contexts, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and real tokens as tensors, (B, L) each."""
    ids_BL = torch.as_tensor(contexts.input_ids, dtype=torch.long, device=device)
    return ids_BL, torch.as_tensor(contexts.attention_mask, device=device)


def draw(scores_BL: Tensor, contexts: Contexts, noise_BL: np.ndarray | None) -> np.ndarray:
    """Masks within the budget, bool (B, L): drawn with Gumbel noise, the best without."""
    maskable_BL = torch.as_tensor(contexts.maskable)
    budget_B = torch.as_tensor(contexts.budget)
    if noise_BL is None:
        return budgeted.top_k(scores_BL, maskable_BL, budget_B).numpy()
    return budgeted.sample(scores_BL, maskable_BL, budget_B, noise_BL).numpy()
