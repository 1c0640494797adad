"""Further pre-training by itself: a language model, a corpus, and anything that masks.

Unlike in a score job, masks are drawn anew at every visit, and a policy that learns while the model
trains is told the model's loss at each token it masked.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from envs import spaces
from envs.adaptation.jobs import Progress
from envs.models.flat import descend
from envs.models.language_model import LanguageModel
from envs.models.masked_batch import corrupted, labelled
from envs.models.seeding import forked, seed_torch
from envs.references import Policy, reseed
from envs.text.corpus import Corpus

WARM_UP = 0.06
"""Share of the steps in which the learning rate rises; then it falls to zero."""

Watch = Callable[[dict[str, np.ndarray], np.ndarray, np.ndarray], None]
"""Called after every step with the observation, the masks and the loss at each masked token."""


@dataclass(frozen=True)
class PretrainingSettings:
    """How a language model is further pre-trained."""

    epochs: int = 3
    """Visits of every context."""
    batch: int = 16
    """Contexts of a step."""
    lr: float = 5e-5
    """Highest learning rate; a model from scratch wants some ten times more."""
    budget: float = 0.15
    """Share of the tokens of a context that may be masked."""
    corruption: Literal["bert", "mask"] = "bert"
    """bert: 80% mask token, 10% random token, 10% unchanged; mask: always the mask token."""
    greedy: bool = False
    """Ask the policy for masks that stay the same (its best tokens, or one draw for a context)."""
    clip: float = 1.0
    """Gradients are scaled down to this norm."""
    seed: int = 0
    """Of masks, order, corruption and dropout."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        spaces.check_budget(self.budget)
        for name in ("lr", "seed"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be finite, 0 or more.")
        if not self.clip > 0:  # a negative norm would turn the gradients round
            raise ValueError(f"clip is {self.clip}; it must be above 0.")

    def steps(self, contexts: int) -> int:
        """Gradient steps on so many contexts."""
        return self.epochs * -(-contexts // self.batch)


def further_pretrain(
    lm: LanguageModel,
    corpus: Corpus,
    policy: Policy,
    settings: PretrainingSettings,
    *,
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> list[float]:
    """Train the model in place.

    Args:
        lm: the model.
        corpus: what to train on.
        policy: anything with ``predict``; if it has ``feedback(observation, mask, token_losses)``
            too, it learns on the way.
        settings: how.
        progress: called after every step.
        watch: called after every step that masked something.

    Returns:
        Mean masked-LM loss of each epoch, in nats.
    """
    rng = np.random.default_rng([settings.seed, 0])
    reseed(policy, rng)
    total = settings.steps(len(corpus))
    per_epoch, losses = total // settings.epochs, np.full(total, np.nan)
    optimizer = lm.flat.adamw(settings.lr)
    with forked(lm.device):
        seed_torch(int(rng.integers(2**31)), lm.device)
        for step in range(total):
            if step % per_epoch == 0:
                order = rng.permutation(len(corpus))
            first = step % per_epoch * settings.batch
            rows = order[first : first + settings.batch]
            observation = spaces.pad_contexts(
                [corpus[int(i)] for i in rows], rows, lm.tokenizer, budget=settings.budget
            )
            chosen_BL, _ = policy.predict(observation, deterministic=settings.greedy)
            masks_BL = spaces.allowed_masks(chosen_BL, observation, rng)
            if masks_BL.any():
                rate = min((step + 1) / (WARM_UP * total), 1 - step / total)
                optimizer.param_groups[0]["lr"] = settings.lr * rate
                losses_BL = _step(lm, optimizer, observation, masks_BL, settings, rng)
                losses[step] = losses_BL[masks_BL].mean()
                _tell(policy, watch, observation, masks_BL, losses_BL)
            if progress is not None:
                progress(f"further pre-training, loss {losses[step]:.2f}", step + 1, total)
    parts = losses.reshape(settings.epochs, per_epoch)
    known = [part[~np.isnan(part)] for part in parts]
    return [float(part.mean()) if len(part) else math.nan for part in known]


def _step(
    lm: LanguageModel,
    optimizer: Any,
    observation: dict[str, np.ndarray],
    masks_BL: np.ndarray,
    settings: PretrainingSettings,
    rng: np.random.Generator,
) -> np.ndarray:
    """One gradient step; the loss at each masked token, (B, L), 0 elsewhere."""
    real_BL = observation["attention_mask"].astype(bool)
    ids_BL, labels_BL = corrupted(lm, observation["input_ids"], masks_BL, settings.corruption, rng)
    sequences = [ids[real] for ids, real in zip(ids_BL, real_BL, strict=True)]
    positions, targets = labelled(labels_BL[real_BL])
    lm.model.train()
    losses_M = lm.masked_losses(sequences, positions, targets)
    descend(lm.flat, optimizer, losses_M.mean(), settings.clip)
    losses_BL = np.zeros(masks_BL.shape, np.float32)
    losses_BL[masks_BL] = losses_M.detach().cpu().numpy()
    return losses_BL


def _tell(
    policy: Any,
    watch: Watch | None,
    observation: dict[str, np.ndarray],
    masks_BL: np.ndarray,
    losses_BL: np.ndarray,
) -> None:
    feedback = getattr(policy, "feedback", None)
    if callable(feedback):
        feedback(observation, masks_BL.astype(np.int8), losses_BL)
    if watch is not None:
        watch(observation, masks_BL, losses_BL)
