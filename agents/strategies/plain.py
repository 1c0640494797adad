"""Strategies that look at positions and words only."""

from __future__ import annotations

import numpy as np

from agents.strategies.base import Batch, ContextView, Strategy
from agents.strategies.selection import add_spans, highest, shuffled_spans, uniform_draws


class NoMask(Strategy):
    """Masks nothing: the language model is not further pre-trained."""

    def choose(self, batch: Batch, deterministic: bool) -> np.ndarray:
        return np.zeros_like(batch.maskable_BL)


class RandomTokens(Strategy):
    """Tokens drawn uniformly without replacement (Devlin et al. 2019, BERT)."""

    def choose(self, batch: Batch, deterministic: bool) -> np.ndarray:
        return highest(batch, uniform_draws(batch, self._rng))


class WholeWords(Strategy):
    """Whole words in random order (whole-word masking; Cui et al. 2019, arXiv 1906.08101).

    A word longer than what is left of the budget is left out and shorter ones are tried, so no
    word is ever cut; a context may then mask a few tokens less than its budget, and nothing at
    all if every word is longer than the budget.
    """

    def choose_one(self, view: ContextView, deterministic: bool) -> np.ndarray:
        mask_L = np.zeros_like(view.maskable_L)
        add_spans(mask_L, view, shuffled_spans(view.words, self._rng))
        return mask_L


class GeometricSpans(Strategy):
    """Spans of whole words of geometric length (Joshi et al. 2020, SpanBERT).

    Lengths follow Geo(p) restricted to 1..max_words (mean 3.8 words at the default values), the
    first word is uniform among the unmasked ones. A span ends early where it meets the end of the
    context, a masked word, or the budget: only as many of its whole words are taken as fit.

    Args:
        p: parameter of the geometric distribution.
        max_words: longest span.
        seed: of the draws.
    """

    def __init__(self, p: float = 0.2, max_words: int = 10, seed: int = 0) -> None:
        super().__init__(seed)
        if not 0 < p <= 1 or max_words < 1:
            raise ValueError(
                f"p is {p} and max_words {max_words}; spans need 0 < p <= 1 and max_words >= 1."
            )
        weights = p * (1 - p) ** np.arange(max_words)
        self._cumulative = np.cumsum(weights / weights.sum())

    def choose_one(self, view: ContextView, deterministic: bool) -> np.ndarray:
        mask_L = np.zeros_like(view.maskable_L)
        # Starts in random order without repetition: each word is tried at most once, so the loop
        # ends even where nothing fits any more.
        for first in self._rng.permutation(len(view.words[0])).tolist():
            if mask_L.sum() >= view.budget:
                break
            if not mask_L[view.words[0][first]]:
                self._add_span(mask_L, view, first, self._length())
        return mask_L

    def _length(self) -> int:
        drawn = int(np.searchsorted(self._cumulative, self._rng.random(), side="right"))
        return min(drawn, len(self._cumulative) - 1) + 1

    @staticmethod
    def _add_span(mask_L: np.ndarray, view: ContextView, first: int, n_words: int) -> None:
        starts, ends = (
            view.words[0][first : first + n_words],
            view.words[1][first : first + n_words],
        )
        left = view.budget - int(mask_L.sum())
        broken = mask_L[starts] | (ends - starts[0] > left)
        broken[1:] |= starts[1:] != ends[:-1]
        n_whole = int(np.argmax(broken)) if broken.any() else len(starts)
        if n_whole:
            mask_L[starts[0] : ends[n_whole - 1]] = True


class Fragment(Strategy):
    """One contiguous fragment of tokens (Song et al. 2019, MASS), as long as the budget, anywhere.

    For the published k = 0.5 the budget must be half of the maskable tokens.
    """

    def choose_one(self, view: ContextView, deterministic: bool) -> np.ndarray:
        mask_L = np.zeros_like(view.maskable_L)
        places = np.flatnonzero(view.maskable_L)
        if view.budget > 0:
            start = int(self._rng.integers(len(places) - view.budget + 1))
            mask_L[places[start : start + view.budget]] = True
        return mask_L
