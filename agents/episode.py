"""One episode as it is played, and what its end says about every run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv

from agents import budgeted
from agents.contexts import Contexts
from agents.features import TokenFeatures
from agents.policy import CHUNK_TOKENS, MaskingNetwork, draw
from agents.self_play import AGENT, Perturbation, perturbed_scores


class PlayedEpisode:
    """Masks contexts one by one, or all at once if they can be had; both give the same masks.

    The Gumbel noise of a context is drawn in the order of the contexts from a generator that
    belongs to the episode, so it does not matter how many are masked together.

    Args:
        network: the player's.
        perturbation: how the player departs from it in this episode.
        rng: for the noise.
    """

    def __init__(
        self, network: MaskingNetwork, perturbation: Perturbation, rng: np.random.Generator
    ) -> None:
        self.network, self.perturbation, self.rng = network, perturbation, rng
        self.reward = 0.0
        self._played: list[tuple[Contexts, np.ndarray, np.ndarray]] = []
        self._planned: tuple[Contexts, np.ndarray, np.ndarray] | None = None

    def plan(self, contexts: Contexts, features: TokenFeatures) -> None:
        """Mask the contexts to come in one batch."""
        self._planned = (contexts, *self._mask(contexts, features))

    def next_mask(self, context: Contexts, features: TokenFeatures) -> np.ndarray:
        """The mask of the context on the table, bool (L,), within its budget."""
        step = len(self._played)
        if self._planned is not None:
            contexts, masks_BL, log_probs_BL = self._planned
            if step < len(contexts) and contexts.context_ids[step] == context.context_ids[0]:
                one = slice(step, step + 1)
                self._played.append((context, masks_BL[one], log_probs_BL[one]))
                return masks_BL[step]
            self._planned = None
        masks_BL, log_probs_BL = self._mask(context, features)
        self._played.append((context, masks_BL, log_probs_BL))
        return masks_BL[0]

    def _mask(self, contexts: Contexts, features: TokenFeatures) -> tuple[np.ndarray, np.ndarray]:
        scores_BL = perturbed_scores(self.network, features, contexts, self.perturbation)
        noise_BL = self.rng.gumbel(size=contexts.input_ids.shape)
        maskable_BL = torch.as_tensor(contexts.maskable)
        log_probs_BL = budgeted.token_log_probs(scores_BL, maskable_BL).numpy()
        return draw(scores_BL, contexts, noise_BL), log_probs_BL

    def __len__(self) -> int:
        return len(self._played)

    def contexts(self) -> Contexts:
        """All contexts played, in order."""
        return Contexts.join([context for context, _, _ in self._played])

    def masks(self) -> np.ndarray:
        """The masks chosen, bool (B, L)."""
        return np.concatenate([mask for _, mask, _ in self._played])

    def log_probs(self) -> np.ndarray:
        """Log-probability of drawing each token first, float32 (B, L)."""
        return np.concatenate([log_prob for _, _, log_prob in self._played])


@dataclass(frozen=True, eq=False)
class Runs:
    """The runs of an episode: the agent, and every reference that was scored.

    Attributes:
        masks: bool (B, L) of each run.
        scores: of each run, higher is better.
    """

    masks: Mapping[str, np.ndarray]
    scores: Mapping[str, float]


def read_runs(info: Mapping[str, Any], episode: PlayedEpisode, metric: str, env: VecEnv) -> Runs:
    """What the last ``info`` of an episode says.

    An environment that gives no scores is learned from by its reward alone, as a single run.

    Args:
        info: of the last step.
        episode: as it was played.
        metric: to learn from; ``headline`` for the environment's own.
        env: says which metric that is, and of which ones less is better.

    Raises:
        ValueError: if there are scores but not of this metric.
    """
    played_BL = episode.masks()
    if "scores" not in info:
        return Runs({AGENT: played_BL}, {AGENT: episode.reward})
    if metric == "headline":
        metric = str(env.get_attr("headline", indices=0)[0])
    higher_is_better = {"nll": False}
    if env.has_attr("higher_is_better"):
        higher_is_better |= env.get_attr("higher_is_better", indices=0)[0]
    given = info.get("masks", {})
    scores, masks = {}, {}
    for name, metrics in info["scores"].items():
        if metric not in metrics:
            raise ValueError(
                f"The agent learns from the metric '{metric}', but the environment scored "
                f"{', '.join(sorted(metrics))}; set 'metric' to one of these."
            )
        score = float(metrics[metric])
        scores[name] = score if higher_is_better.get(metric, True) else -score
        fallback = played_BL if name == AGENT else np.zeros_like(played_BL)
        mask = given.get(name)
        masks[name] = fallback if mask is None else np.asarray(mask).astype(bool)
    return Runs(masks, scores)


@torch.no_grad()
def masked_sums(
    features: TokenFeatures, contexts: Contexts, masks_RBL: np.ndarray, diminishing: float = 0.0
) -> np.ndarray:
    """Components summed over the masked tokens of each run, float64 (R, D).

    Args:
        features: describe the tokens.
        contexts: B contexts.
        masks_RBL: masks of each run.
        diminishing: a token id that a run masks n times counts n to the power of 1 minus this.
    """
    runs, batch, length = masks_RBL.shape
    weights_RBL = np.stack([_shares(contexts.input_ids, m_BL, diminishing) for m_BL in masks_RBL])
    total_RD = np.zeros((runs, features.size))
    step = max(1, CHUNK_TOKENS // length)
    for start in range(0, batch, step):
        part = contexts.rows(slice(start, start + step)).trimmed()
        phi_BLD = features(part).cpu()
        used = torch.as_tensor(weights_RBL[:, start : start + step, : phi_BLD.shape[1]])
        total_RD += torch.einsum("rbl,bld->rd", used.float(), phi_BLD).double().numpy()
    return total_RD


def _shares(input_ids_BL: np.ndarray, mask_BL: np.ndarray, diminishing: float) -> np.ndarray:
    """What each masked token counts for, 0 to 1, (B, L); 0 where nothing is masked."""
    times_V = np.bincount(input_ids_BL[mask_BL], minlength=int(input_ids_BL.max()) + 1)
    return np.where(mask_BL, np.maximum(times_V, 1.0)[input_ids_BL] ** -diminishing, 0.0)
