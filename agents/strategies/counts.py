"""Corpus statistics that strategies rank tokens by.

A corpus is any sequence of contexts with ``input_ids``, ``word_ids`` and ``maskable`` arrays (n,).
Only maskable tokens are counted. V is the size of the vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from agents.strategies.base import ContextView, word_spans

Word = tuple[int, ...]
"""A word as the tuple of its token ids."""


class ContextLike(Protocol):
    """What is read of a context."""

    @property
    def input_ids(self) -> np.ndarray: ...
    @property
    def word_ids(self) -> np.ndarray: ...
    @property
    def maskable(self) -> np.ndarray: ...


def token_counts(contexts: Iterable[ContextLike], vocab_size: int) -> np.ndarray:
    """How often each token id occurs, int64 (V,)."""
    counts_V = np.zeros(vocab_size, np.int64)
    for context in contexts:
        counts_V += np.bincount(context.input_ids[context.maskable], minlength=vocab_size)
    return counts_V


def document_frequency(contexts: Iterable[ContextLike], vocab_size: int) -> np.ndarray:
    """In how many contexts each token id occurs, int64 (V,)."""
    frequency_V = np.zeros(vocab_size, np.int64)
    for context in contexts:
        frequency_V[np.unique(context.input_ids[context.maskable])] += 1
    return frequency_V


def smooth_idf(frequency: np.ndarray, n_documents: int) -> np.ndarray:
    """Inverse document frequency, ln((1 + N) / (1 + df)) (Spärck Jones 1972, smoothed).

    A token that is in every document has 0; one that is in none has the most.
    """
    return np.log((1 + n_documents) / (1 + np.asarray(frequency, float)))


def inverse_document_frequency(contexts: Sequence[ContextLike], vocab_size: int) -> np.ndarray:
    """The idf of each token id over contexts, float (V,)."""
    return smooth_idf(document_frequency(contexts, vocab_size), len(contexts))


def word_types(context: ContextLike) -> list[Word]:
    """The words of a context in reading order."""
    words = word_spans(context.word_ids[None], context.maskable.astype(bool)[None])[0]
    return ContextView(context.input_ids, context.maskable, words, 0).word_types()


def word_idf(contexts: Sequence[ContextLike]) -> tuple[Mapping[Word, float], float]:
    """The idf of each word over contexts, and that of a word that occurs in none of them."""
    frequency: Counter[Word] = Counter()
    for context in contexts:
        frequency.update(set(word_types(context)))
    values = smooth_idf(np.fromiter(frequency.values(), float, len(frequency)), len(contexts))
    unseen = float(smooth_idf(np.zeros(1), len(contexts))[0])
    return dict(zip(frequency, values.tolist(), strict=True)), unseen
