"""Spans that come back within a context (Ram et al. 2021, Splinter)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np

from agents.strategies.base import ContextView, Strategy
from agents.strategies.counts import Word
from agents.strategies.entities import stretch
from agents.strategies.selection import add_spans, as_spans, fill_up
from agents.strategies.wording import FUNCTION_WORDS, WordText, is_punctuation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class RecurringSpans(Strategy):
    """All occurrences but one of spans that occur more than once in the context.

    Spans are whole words, as long as they can be, and hold a word that is neither punctuation nor
    a function word. They come in random order; the occurrence that stays is drawn. Splinter then
    points at the one that stays; here the language model predicts the masked ones as usual.

    Args:
        tokenizer: whose token ids the contexts hold.
        max_words: longest span.
        fill: mask random tokens with what is left of the budget, so that comparisons with other
            strategies are at the same number of tokens. They may hit the occurrences that stay.
        seed: of the draws.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_words: int = 10,
        fill: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        self._text, self.max_words, self.fill = WordText(tokenizer), max_words, fill

    def choose_one(self, view: ContextView, deterministic: bool) -> np.ndarray:
        mask_L = np.zeros_like(view.maskable_L)
        texts = self._text(view)
        content = [
            not is_punctuation(text) and text.lower() not in FUNCTION_WORDS for text in texts
        ]
        found = recurring_spans(view.word_types(), content, self.max_words)
        for number in self._rng.permutation(len(found)).tolist():
            places = found[number]
            kept = self._rng.integers(len(places))
            masked = [pair for place, pair in enumerate(places) if place != kept]
            add_spans(mask_L, view, as_spans([stretch(view.words, *pair) for pair in masked]))
        if self.fill:
            fill_up(mask_L, view, self._rng)
        return mask_L


def recurring_spans(
    words: list[Word], content: Collection[bool], max_words: int
) -> list[list[tuple[int, int]]]:
    """Spans of words that occur at least twice, each as its places (first word, last word).

    Longer spans first; a shorter one counts only where no longer one covers it.
    """
    by_length = _recurring_by_length(words, max_words)
    is_content = np.concatenate([[0], np.cumsum(np.fromiter(content, int))])
    taken = np.zeros(len(words), dtype=bool)
    found = []
    for n in range(len(by_length), 0, -1):
        for starts in by_length[n - 1]:
            has_content = is_content[starts[0] + n] > is_content[starts[0]]
            free = _apart([i for i in starts if not taken[i : i + n].any()], n)
            if has_content and len(free) > 1:
                found.append([(i, i + n - 1) for i in free])
                for i in free:
                    taken[i : i + n] = True
    return found


def _recurring_by_length(words: list[Word], max_words: int) -> list[list[list[int]]]:
    """For each length from 1, the start places of every span that occurs more than once.

    A span can recur only where the span without its last word does, so few are looked at.
    """
    lengths = []
    candidates: Sequence[int] = range(len(words))
    for n in range(1, max_words + 1):
        places: dict[tuple[Word, ...], list[int]] = {}
        for start in candidates:
            if start + n <= len(words):
                places.setdefault(tuple(words[start : start + n]), []).append(start)
        groups = [starts for starts in places.values() if len(starts) > 1]
        if not groups:
            break
        lengths.append(groups)
        candidates = sorted(start for starts in groups for start in starts)
    return lengths


def _apart(starts: list[int], n: int) -> list[int]:
    """The places of a span of n words that do not overlap the one before."""
    kept: list[int] = []
    for start in starts:
        if not kept or start >= kept[-1] + n:
            kept.append(start)
    return kept
