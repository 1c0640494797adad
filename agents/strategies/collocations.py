"""Units of words that belong together: PMI-Masking (Levine et al. 2021, ICLR).

The PMI of an n-gram is that of its weakest cut into parts:

    PMI(w1..wn) = min over cuts of  ln p(w1..wn) - sum over parts s of ln p(s)

so that an n-gram is a unit only if every part of it speaks for the rest.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

from agents.strategies.base import ContextView, Strategy
from agents.strategies.counts import ContextLike, Word, word_types
from agents.strategies.entities import stretch
from agents.strategies.selection import add_spans, as_spans, shuffled_spans

NGram = tuple[Word, ...]


def pmi_scores(
    documents: Sequence[Sequence[Word]], max_words: int = 5, min_count: int = 10
) -> dict[NGram, float]:
    """PMI, in nats, of every n-gram of 2 to ``max_words`` words seen at least ``min_count`` times.

    The probability of an n-gram is its share of the n-grams of that length.
    """
    counts = [
        Counter(ngram for words in documents for ngram in _ngrams(words, n))
        for n in range(1, max_words + 1)
    ]
    totals = [math.log(max(counter.total(), 1)) for counter in counts]

    def log_p(ngram: NGram) -> float:
        return math.log(counts[len(ngram) - 1][ngram]) - totals[len(ngram) - 1]

    def best_cut(ngram: NGram) -> float:
        """Highest sum of ln p over cuts into at least two parts."""
        best = [0.0] * (len(ngram) + 1)
        for end in range(1, len(ngram) + 1):
            starts = range(end) if end < len(ngram) else range(1, end)
            best[end] = max(best[start] + log_p(ngram[start:end]) for start in starts)
        return best[-1]

    return {
        ngram: log_p(ngram) - best_cut(ngram)
        for counter in counts[1:]
        for ngram, count in counter.items()
        if count >= min_count
    }


def _ngrams(words: Sequence[Word], n: int) -> zip[NGram]:
    return zip(*(words[start:] for start in range(n)), strict=False)


def pmi_units(
    contexts: Sequence[ContextLike], size: int = 10_000, max_words: int = 5, min_count: int = 10
) -> frozenset[NGram]:
    """The ``size`` n-grams of highest PMI above 0 (the paper: 800,000 from a web-sized corpus)."""
    scores = pmi_scores([word_types(context) for context in contexts], max_words, min_count)
    best = sorted(scores, key=lambda ngram: (-scores[ngram], ngram))[:size]
    return frozenset(ngram for ngram in best if scores[ngram] > 0)


class Collocations(Strategy):
    """Units of high PMI, and words that are in none, in random order, each whole.

    Reading from the left, the longest unit that matches is taken; a unit or word longer than what
    is left of the budget is left out whole.

    Args:
        units: n-grams that are masked as one, see ``pmi_units``.
        seed: of the draws.
    """

    def __init__(self, units: Collection[NGram], seed: int = 0) -> None:
        super().__init__(seed)
        self.units = frozenset(units)
        self._longest = max(map(len, self.units), default=1)

    def choose_one(self, view: ContextView, deterministic: bool) -> np.ndarray:
        mask_L = np.zeros_like(view.maskable_L)
        spans = as_spans([stretch(view.words, *pair) for pair in self.segment(view.word_types())])
        add_spans(mask_L, view, shuffled_spans(spans, self._rng))
        return mask_L

    def segment(self, words: Sequence[Word]) -> list[tuple[int, int]]:
        """The words cut into units, as (first word, last word)."""
        pairs, first = [], 0
        while first < len(words):
            n = min(self._longest, len(words) - first)
            while n > 1 and tuple(words[first : first + n]) not in self.units:
                n -= 1
            pairs.append((first, first + n - 1))
            first += n
        return pairs
