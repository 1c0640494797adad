"""What every masking strategy shares: reading observations, drawing, handing back masks.

B contexts in a batch, L tokens in a padded context.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

Observation = Mapping[str, np.ndarray]
Spans = tuple[np.ndarray, np.ndarray]
"""First token and one past the last token of N stretches of a context, two int arrays (N,)."""


def word_spans(word_ids_BL: np.ndarray, maskable_BL: np.ndarray) -> list[Spans]:
    """The words of each context: runs of one word id whose tokens may all be masked.

    Word ids come with the observation; nothing is read off the spelling of the tokens here.
    """
    n_contexts, length = word_ids_BL.shape
    ids = word_ids_BL.ravel()
    if ids.size == 0:
        return [(np.zeros(0, np.int64), np.zeros(0, np.int64)) for _ in range(n_contexts)]
    new = np.ones(ids.size, dtype=bool)
    new[1:] = ids[1:] != ids[:-1]
    new[::length] = True
    starts = np.flatnonzero(new)
    ends = np.append(starts[1:], ids.size)
    whole = np.logical_and.reduceat(maskable_BL.ravel(), starts) & (ids[starts] >= 0)
    starts, ends = starts[whole], ends[whole]
    rows = np.searchsorted(starts, np.arange(n_contexts + 1) * length)
    return [
        (starts[a:b] - row * length, ends[a:b] - row * length)
        for row, (a, b) in enumerate(pairwise(rows.tolist()))
    ]


@dataclass(frozen=True, eq=False)
class ContextView:
    """One context of a batch, as a strategy sees it.

    Attributes:
        input_ids_L: token ids.
        maskable_L: bool; special and pad tokens are False.
        words: the spans of its whole words, in reading order.
        budget: how many tokens may be masked; never more than there are maskable tokens.
    """

    input_ids_L: np.ndarray
    maskable_L: np.ndarray
    words: Spans
    budget: int

    def word_types(self) -> list[tuple[int, ...]]:
        """Each word as the tuple of its token ids: equal for equal words."""
        ids = self.input_ids_L.tolist()
        return [tuple(ids[a:b]) for a, b in zip(*map(np.ndarray.tolist, self.words), strict=True)]


@dataclass(frozen=True, eq=False)
class Batch:
    """Observations with a leading B, whatever the shape they came in.

    Attributes:
        observation: as it was given.
        input_ids_BL: token ids.
        maskable_BL: bool.
        word_ids_BL: -1 for tokens outside of words.
        budget_B: tokens that may be masked, at most the maskable ones.
    """

    observation: Observation
    input_ids_BL: np.ndarray
    maskable_BL: np.ndarray
    word_ids_BL: np.ndarray
    budget_B: np.ndarray

    @classmethod
    def of(cls, observation: Observation) -> Batch:
        """Read one observation, entries (L,), or a batch of them, entries (B, L)."""
        maskable_BL = np.atleast_2d(observation["maskable"]).astype(bool)
        budget_B = np.asarray(observation["budget"], np.int64).reshape(len(maskable_BL))
        return cls(
            observation,
            np.atleast_2d(observation["input_ids"]),
            maskable_BL,
            np.atleast_2d(observation["word_ids"]),
            np.minimum(budget_B, maskable_BL.sum(1)),
        )

    @cached_property
    def words(self) -> list[Spans]:
        return word_spans(self.word_ids_BL, self.maskable_BL)

    def views(self) -> Iterator[ContextView]:
        for row, words in enumerate(self.words):
            yield ContextView(
                self.input_ids_BL[row], self.maskable_BL[row], words, int(self.budget_B[row])
            )


class Strategy:
    """A fixed rule that masks contexts: sees the observation, keeps to its budget.

    A subclass gives ``choose_one`` (a context at a time) or ``choose`` (a whole batch). Draws are
    made context by context and for maskable tokens only, so neither batching nor padding changes
    a mask: the same seed and the same contexts in the same order give the same masks.

    Args:
        seed: of the strategy's own generator.
    """

    def __init__(self, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)

    def seed(self, seed: int) -> None:
        """Start the strategy's generator anew."""
        self._rng = np.random.default_rng(seed)

    def predict(
        self,
        observation: Observation,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Mask one context or a batch of them.

        Args:
            observation: entries of shape (L,), or (B, L) for a batch.
            state: handed back as it came; strategies keep none.
            episode_start: ignored.
            deterministic: rules that rank tokens take the best ones, ties from the left, without
                a draw. Rules that are a draw by nature (random, words, spans) draw all the same.

        Returns:
            The mask, int8, of the shape of ``input_ids``, and ``state``.
        """
        batch = Batch.of(observation)
        mask_BL = self.choose(batch, deterministic).astype(np.int8)
        return mask_BL.reshape(np.shape(observation["input_ids"])), state

    def choose(self, batch: Batch, deterministic: bool) -> np.ndarray:
        """The masks of a batch, bool (B, L)."""
        masks = [self.choose_one(view, deterministic) for view in batch.views()]
        return np.stack(masks) if masks else np.zeros_like(batch.maskable_BL)

    def choose_one(self, view: ContextView, deterministic: bool) -> np.ndarray:
        """The mask of one context, bool (L,)."""
        raise NotImplementedError
