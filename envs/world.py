"""A world deals episodes: contexts to mask, examples to fine-tune on, examples to score on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from envs.tasks.task import Feature
from envs.text.corpus import Context

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, eq=False)
class Deal:
    """What one episode plays with.

    Attributes:
        contexts: B contexts to mask.
        context_ids: int32, shape (B,); one id always means the same text.
        train: features to fine-tune on.
        score: features held out from ``train``.
        informative: where the best tokens to mask are known (the testbed), one bool array (n,) per
            context; else ``None``. No policy sees it.
    """

    contexts: Sequence[Context]
    context_ids: np.ndarray
    train: Sequence[Feature]
    score: Sequence[Feature]
    informative: Sequence[np.ndarray] | None = None

    def informative_share(self, masks: Sequence[np.ndarray] | np.ndarray) -> float:
        """Share of the masked tokens that are informative; NaN where none is masked.

        Args:
            masks: one for each context, (n,) or padded to (L,).
        """
        pairs = zip(masks, self.informative or (), strict=True)
        hits = sum(int(mask[: len(best)][best].sum()) for mask, best in pairs)
        masked = sum(int(mask.sum()) for mask in masks)
        return hits / masked if masked else math.nan


class World(Protocol):
    """Where episodes come from. ``deal`` is pure in its seed and does no language-model work."""

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    """L: no context is longer."""
    vocab_size: int

    def deal(self, seed: np.random.SeedSequence) -> Deal: ...
